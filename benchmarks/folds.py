"""Samples on which `--max-drop` calibrates and measures: docs/benchmarks-linear.md.

    python -m benchmarks.folds IDX_FOLDER [--seeds 5] [--networks DIR]

Five-layer MLPs on MNIST are pruned with a limit of 0.5 points and N test images for everything.
These are divided in three ways: the network is calibrated on 40 % and measured on the rest; it is
calibrated and measured on all; or the loss is measured on each half with a network calibrated on
the other half, and the result is calibrated on all. What is lost is then measured on the test
images that are left. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.compression import networks
from benchmarks.guard import LIMIT, RANGES, Measured, by_soft_drop, measured
from benchmarks.networks import print_row
from rmtcli.planning import Drop, Range, smallest

COUNTS, SIZES = (1_000,), 20
Rows = NDArray[np.intp]


class Bench:
    """Networks, their test images, and what is measured on these.

    Args:
        path: the network.
        data: the test images.
        folder: the directory for calibration images.
    """

    def __init__(self, path: Path, data: Path, folder: Path) -> None:
        self.path, self.data, self.folder = path, data, folder
        with np.load(data) as arrays:
            self.images = arrays["inputs"]

    def calibrated(self, rows: Rows) -> Measured:
        """Networks of all sizes, calibrated on some of the images."""
        images = self.folder / "images.npz"
        np.savez(images, inputs=self.images[rows])
        return measured(self.path, self.data, RANGES["MLP"], calibration=images, count=SIZES)

    def ways(self, rows: Rows) -> dict[str, tuple[Measured, Measured, Rows]]:
        """Each way to divide some samples: the result, what is measured, and on which samples."""
        share = round(0.4 * len(rows))
        halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        part, whole = self.calibrated(rows[:share]), self.calibrated(rows)
        first, second = (self.calibrated(half) for half in halves)
        return {
            "40 %, rest": (part, part, rows[share:]),
            "all, all": (whole, whole, rows),
            "all, halves in turn": (whole, joined(second, first, halves), rows),
        }


def joined(first: Measured, second: Measured, rows: Sequence[Rows]) -> Measured:
    """Two networks of each size, each on its own samples."""
    right, margins = first.right.copy(), first.margins.copy()
    right[:, rows[1]], margins[:, rows[1]] = second.right[:, rows[1]], second.margins[:, rows[1]]
    return replace(first, right=right, margins=margins)


def chosen(result: Measured, network: Measured, rows: Rows) -> tuple[int, Drop] | None:
    """The index of the size that the guard chooses, and the loss that it expects there."""
    loss, sizes = by_soft_drop(network, rows), result.sizes
    search = Range(int(sizes[0]), int(sizes[SIZES // 2]), int(sizes[-1]))
    choice = smallest(search, lambda size: loss(int(np.searchsorted(sizes, size))), LIMIT)
    return choice and (int(np.searchsorted(sizes, choice[0])), choice[1])


def main() -> None:
    """Choose sizes in each way and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("idx_folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--networks", type=Path, help="folder to keep trained networks in")
    given = parser.parse_args()
    heads = ("size", "expected loss", "loss on other images", "within the limit")
    print_row("samples", "calibrated, measured on", *heads)
    print_row(*["---"] * 6)
    with tempfile.TemporaryDirectory() as name:
        folder = given.networks or Path(name)
        paths = networks(given.idx_folder, folder, given.seeds)
        benches = [Bench(path, folder / "test.npz", Path(name)) for path in paths]
        for count in COUNTS:
            print_rows(benches, count)


def print_rows(benches: Sequence[Bench], count: int) -> None:
    """Print one row for each way to divide so many samples."""
    results: dict[str, list[tuple[float, float, float]]] = {}
    for seed, bench in enumerate(benches):
        every = np.random.default_rng(seed).permutation(len(bench.images))
        for title, (result, measure, rows) in bench.ways(every[:count]).items():
            index, drop = chosen(result, measure, rows) or (SIZES, Drop(0.0, 0.0))
            right = result.right[:, every[count:]].mean(1)
            lost = float(100 * (right[-1] - right[index]))
            size = 100 * float(result.sizes[index] / result.sizes[-1])
            results.setdefault(title, []).append((size, drop.drop, lost))
    for title, values in results.items():
        size, expected, lost = np.array(values).T
        print_row(
            f"{count:,}",
            title,
            f"{size.mean():.2f} ± {size.std(ddof=1):.2f} %",
            f"{expected.mean():.2f} ± {expected.std(ddof=1):.2f}",
            f"{lost.mean():.2f} ± {lost.std(ddof=1):.2f}",
            f"{(lost <= LIMIT).sum()} of {len(lost)}",
        )


if __name__ == "__main__":
    main()
