"""Accuracy against rank on MNIST, over several trained networks: docs/benchmarks-linear.md.

    python -m benchmarks.mnist IDX_FOLDER [--seeds 5]

Networks are trained as in sample_models/make.py, one per seed, and pruned without retraining.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import rmtcli
from benchmarks.networks import accuracy, at_size, dense, print_row, spread, trained, write_data
from rmtcli.report.base import Report

RANKS = (10, 20, 30, 40, 50, 55, 60, 90)
#: Published for one network (notebook of arXiv 2303.08986): dense accuracy, edge rank, accuracies.
PUBLISHED = ["98.29", "56", "–", "75.75", "90.71", "97.29", "98.02", "98.21", "98.22", "98.23"]
PUBLISHED.append("98.33")


def main() -> None:
    """Train the networks, prune them and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("idx_folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(arguments.idx_folder, folder / "mnist.npz")

        def pruned(path: Path, keep: str) -> Report:
            evaluation = rmtcli.Evaluation(data=folder / "mnist.npz")
            return rmtcli.prune(path, keep=keep, edge="bema", evaluation=evaluation, dry_run=True)

        def networks(sizes: list[int], lr: float, epochs: int) -> list[Path]:
            source, seeds = arguments.idx_folder, arguments.seeds
            return trained(source, folder, sizes, seeds, lr=lr, epochs=epochs)

        print_ranks(networks([784, 1000, 10], 0.08, 10), pruned)
        print_baselines(networks([784, 512, 512, 512, 256, 10], 0.01, 8), pruned)


def print_ranks(models: list[Path], pruned: Callable[[Path, str], Report]) -> None:
    """Print the table of 784-1000-10: accuracy at fixed ranks, and at the rank of ``auto``."""
    print_row("network", "dense", "edge rank", "at the edge rank", *map(str, RANKS))
    print_row(*["---"] * (4 + len(RANKS)))
    print_row("published", *PUBLISHED)
    for seed, path in enumerate(models):
        auto = pruned(path, "auto")
        fixed = [accuracy(pruned(path, f"rank:k={k}")) for k in RANKS]
        cells = [f"{a:.2f}" for a in (accuracy(auto), *fixed)]
        print_row(f"seed {seed}", f"{dense(auto):.2f}", str(auto.layers[0].rank), *cells)
    print()


def print_baselines(models: list[Path], pruned: Callable[[Path, str], Report]) -> None:
    """Print the table of 784-512-512-512-256-10: the edge and two baselines at equal size."""
    rules: dict[str, Callable[[Report, Path], Report]] = {
        "edge": lambda auto, _: auto,
        "plain SVD by energy": lambda auto, path: at_size(
            auto.parameters[1], lambda x: pruned(path, f"energy:fraction={x}")
        ),
        "uniform fraction": lambda auto, path: at_size(
            auto.parameters[1], lambda x: pruned(path, f"fraction:of={x}")
        ),
    }
    reports_of: dict[str, list[Report]] = {name: [] for name in rules}
    for path in models:
        auto = pruned(path, "auto")
        for name, rule in rules.items():
            reports_of[name].append(rule(auto, path))
    print_row("rule", "parameters left", "dense", "pruned", "drop, points")
    print_row(*["---"] * 5)
    for name, reports in reports_of.items():
        left = [100 * r.parameters[1] / r.parameters[0] for r in reports]
        drops = [dense(r) - accuracy(r) for r in reports]
        print_row(
            name,
            f"{spread(left)} %",
            spread([dense(r) for r in reports]),
            spread([accuracy(r) for r in reports]),
            spread(drops),
        )


if __name__ == "__main__":
    main()
