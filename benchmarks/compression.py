"""Accuracy at equal size, with and without data: docs/benchmarks-linear.md.

    python -m benchmarks.compression IDX_FOLDER [--seeds 5] [--share 10 5 3] [--methods NAME …]

MNIST 784-1000-1000-1000-500-10, SGD with rate 0.01 and momentum 0.9, batch 128, 8 epochs; pruned
without retraining, calibrated on 4,096 training images. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import rmtcli
from benchmarks.networks import accuracy, at_size, dense, print_row, spread, trained, write_data
from rmtcli.planning import Budget
from rmtcli.report.base import Report

SIZES = [784, 1000, 1000, 1000, 500, 10]
SHARES = (10, 5, 3)
Method = Callable[[Path, Path, float], Report]


def joint(
    metric: str | None, *, sequential: bool = False, heal: int = 0, layout: str = "factored"
) -> Method:
    """A method that divides one budget among all layers, with a metric or without data."""

    def run(path: Path, data: Path, share: float) -> Report:
        # Without data, the test images are kept in a file that has no training part.
        calibration = None
        if metric is not None:
            calibration = rmtcli.Calibration(data, metric, sequential=sequential, heal=heal)
        held_out = data if metric else data.with_name("test.npz")
        return rmtcli.prune(
            path,
            budget=Budget(f"{share}%"),
            evaluation=rmtcli.Evaluation(held_out),
            calibration=calibration,
            layout=layout,
            dry_run=True,
        )

    return run


def ruled(rule: str, metric: str | None = None) -> Method:
    """A method that uses a keep rule, with its one option adjusted to reach the size."""

    def run(path: Path, data: Path, share: float) -> Report:
        # A rule's ranks do not depend on the data.
        def at(option: float) -> Report:
            return rmtcli.prune(path, keep=f"{rule}={option}", dry_run=True)

        sized = at_size(round(share / 100 * at(0.5).parameters[0]), at)
        return rmtcli.prune(
            path,
            keep=str(sized.keep),
            calibration=None if metric is None else rmtcli.Calibration(data, metric),
            evaluation=rmtcli.Evaluation(data),
            dry_run=True,
        )

    return run


METHODS: dict[str, Method] = {
    "pivoted, two-sided, `--sequential --heal 40`": joint(
        "two-sided", sequential=True, heal=40, layout="pivoted"
    ),
    "`--layout auto`, two-sided metric": joint("two-sided", layout="auto"),
    "pivoted, two-sided metric, one budget": joint("two-sided", layout="pivoted"),
    "pivoted, no data, one budget": joint(None, layout="pivoted"),
    "two-sided, `--sequential --heal 40`": joint("two-sided", sequential=True, heal=40),
    "two-sided, `--sequential`": joint("two-sided", sequential=True),
    "two-sided metric, one budget (`--budget`)": joint("two-sided"),
    "one-sided metric, one budget (`--metric one-sided`)": joint("one-sided"),
    "two-sided metric, `--layout narrow`": joint("two-sided", layout="narrow"),
    "one-sided metric, `--layout narrow`": joint("one-sided", layout="narrow"),
    "one-sided metric, uniform ratio": ruled("fraction:of", "one-sided"),
    "no data, one budget": joint(None),
    "no data, plain SVD by energy": ruled("energy:fraction"),
    "no data, uniform ratio": ruled("fraction:of"),
}


def main() -> None:
    """Train the networks, prune them and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("idx_folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--share", type=float, nargs="+", default=SHARES)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--networks", type=Path, help="folder to keep trained networks in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.networks or Path(name)
        models = networks(arguments.idx_folder, folder, arguments.seeds)
        print_row("method", "parameters left", "dense", "pruned", "drop, points", "largest drop")
        print_row(*["---"] * 6)
        for share in arguments.share:
            for title in arguments.methods:
                method = METHODS[title]
                reports = [method(path, folder / "mnist.npz", share) for path in models]
                print_reports(title, reports)


def networks(idx_folder: Path, folder: Path, seeds: int) -> list[Path]:
    """One trained network per seed, with ``mnist.npz`` and ``test.npz`` beside them."""
    write_data(idx_folder, folder / "mnist.npz")
    write_data(idx_folder, folder / "test.npz", training=False)
    return trained(idx_folder, folder, SIZES, seeds, lr=0.01, epochs=8)


def print_reports(title: str, reports: list[Report]) -> None:
    """Print one row of the table: a method over all networks."""
    drops = [dense(r) - accuracy(r) for r in reports]
    print_row(
        title,
        f"{spread([100 * r.parameters[1] / r.parameters[0] for r in reports])} %",
        spread([dense(r) for r in reports]),
        spread([accuracy(r) for r in reports]),
        spread(drops),
        f"{max(drops):.2f}",
    )


if __name__ == "__main__":
    main()
