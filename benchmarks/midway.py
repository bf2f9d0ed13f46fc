"""Pruned in the middle of training, with and without inputs: docs/benchmarks-linear.md.

    python -m benchmarks.midway IDX_FOLDER [--seeds 3]

784-300-300-100-10 on MNIST trains for one epoch, ``compress`` divides a budget among its layers,
and the result trains for two more. Inputs are 2,048 training images without labels. Prints
Markdown.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import rmtcli
from benchmarks.networks import print_row, spread
from rmtcli.experiments.idx import read_split

WIDTHS = (784, 300, 300, 100, 10)
INPUTS, BATCH, RATE = 2_048, 128, 0.05
BUDGETS = ("10%", "5%")


class Bench:
    """The images, and what is done with them.

    Args:
        folder: the folder with the IDX files.
    """

    def __init__(self, folder: Path) -> None:
        (self.x, self.y), (self.test, self.labels) = (
            (torch.tensor(images / 255, dtype=torch.float32), torch.tensor(labels).long())
            for images, labels in (read_split(folder, "train"), read_split(folder, "t10k"))
        )

    @property
    def inputs(self) -> Tensor:
        """The inputs to calibrate on."""
        return self.x[:INPUTS]

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        """Percent of the test images that are right."""
        return 100 * float((model(self.test).argmax(1) == self.labels).double().mean())

    def train(self, model: nn.Module, epochs: int, seed: int) -> None:
        """Train by SGD with momentum, at a rate that falls along a line."""
        optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9)
        steps = len(self.x) // BATCH
        rate = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, epochs * steps)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            order = torch.randperm(len(self.x), generator=generator)[: steps * BATCH]
            for rows in order.split(BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(self.x[rows]), self.y[rows]).backward()
                optimizer.step()
                rate.step()

    def midway(self, budget: str, inputs: Tensor | None, seed: int) -> tuple[float, float, int]:
        """Accuracy when pruned and when trained further, and the number of parameters."""
        model = network(seed)
        self.train(model, 1, seed)
        calibration = "none" if inputs is None else inputs
        small = rmtcli.compress(model.eval(), budget=budget, calibration=calibration)
        pruned = self.accuracy(small)
        self.train(small.requires_grad_(True), 2, seed + 10)
        return pruned, self.accuracy(small), sum(p.numel() for p in small.parameters())


def network(seed: int) -> nn.Module:
    """The network before training."""
    torch.manual_seed(seed)
    parts = [m for a, b in pairwise(WIDTHS) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*parts[:-1])


def main() -> None:
    """Train, prune midway and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("idx_folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(given.idx_folder)
    print_row("budget", "inputs", "parameters", "pruned", "trained further")
    print_row(*["---"] * 5)
    for budget in BUDGETS:
        for title, inputs in (("none", None), (f"{INPUTS:,}", bench.inputs)):
            runs = [bench.midway(budget, inputs, seed) for seed in range(given.seeds)]
            pruned, trained, sizes = (list(values) for values in zip(*runs, strict=True))
            print_row(budget, title, f"{np.mean(sizes):,.0f}", spread(pruned), spread(trained))


if __name__ == "__main__":
    main()
