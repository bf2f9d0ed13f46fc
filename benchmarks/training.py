"""Overhead of the pruner per epoch of training: docs/benchmarks-speed.md.

    python -m benchmarks.training IDX_FOLDER [--epochs 6] [--sizes 784 1000 10]

Epochs with and without the pruner alternate, each pair starting from equal weights. There are three
cases: the pruner fits and truncates but splits nothing, so that the widths are equal; it splits
once and fits in every epoch; it has split, and the ranks have fallen. Prints Markdown: the ratio of
an epoch's time with the pruner to its time without, median and range over the epochs.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.networks import print_row
from rmtcli.experiments.networks import mlp
from rmtcli.experiments.run import BATCH, Images
from rmtcli.training import RMTPruner

CASES: dict[str, dict[str, Any]] = {
    "fit and truncate each epoch, equal width": {"action": "truncate", "keep": "fraction:of=0.5"},
    "45 % below the edge, each epoch": {"schedule": "constant:of=0.45", "keep": "edge"},
    "spikes only, each epoch": {"keep": "edge:at_least=10"},
}


def epoch(model: nn.Module, optimizer: torch.optim.Optimizer, images: Images) -> float:
    """Train for one epoch and return its seconds."""
    start = time.perf_counter()
    for rows in torch.split(torch.randperm(len(images.train)), BATCH):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images.train[rows]), images.labels[rows])
        torch.autograd.backward(loss)
        optimizer.step()
    return time.perf_counter() - start


def main() -> None:
    """Train in pairs and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--sizes", type=int, nargs="+", default=[784, 1000, 10])
    arguments = parser.parse_args()
    images = Images.read(arguments.folder)
    print_row(
        "pruner", "epoch with / without", "range", "share of time in the pruner", "final ranks"
    )
    print_row(*["---"] * 5)
    for title, options in CASES.items():
        networks = [mlp(arguments.sizes, 0), mlp(arguments.sizes, 0)]
        plain, pruned = (torch.optim.SGD(n.parameters(), lr=0.05, momentum=0.9) for n in networks)
        pruner = RMTPruner(networks[1], pruned, edge="bema", start=0, **options)
        ratios, shares = [], []
        for _ in range(arguments.epochs):
            without = epoch(networks[0], plain, images)
            start = time.perf_counter()
            pruner.step()
            shares.append((time.perf_counter() - start) / without)
            ratios.append(shares[-1] + epoch(networks[1], pruned, images) / without)
        ranks = ", ".join(map(str, pruner.ranks.values()))
        print_row(
            title,
            f"{np.median(ratios[1:]):.2f}",
            f"{min(ratios[1:]):.2f} to {max(ratios[1:]):.2f}",
            f"{100 * np.median(shares[1:]):.1f} %",
            ranks,
        )


if __name__ == "__main__":
    main()
