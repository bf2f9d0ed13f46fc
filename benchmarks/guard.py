"""How steady `--max-drop` is: the table of docs/benchmarks-linear.md.

    python -m benchmarks.guard MNIST_FOLDER FASHION_FOLDER [--folder DIR]

Two networks, a residual one with BatchNorm on Fashion-MNIST and a five-layer MLP on MNIST, are
pruned to many sizes, and each size is scored on all 10,000 test images once. Then the guard chooses
a size from 200 random selections of so many images, and its choice is judged on all of them: by the
soft drop as in ``prune``, and by counting right and wrong. The folders hold the IDX files. Prints
Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

import rmtcli
from benchmarks.networks import print_row, trained, write_data
from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import open_checkpoint
from rmtcli.evaluation.confidence import confidence, probabilities
from rmtcli.evaluation.network import build, reading_of
from rmtcli.evaluation.score import scores
from rmtcli.experiments.idx import read_split
from rmtcli.pipeline.decide import allocate, at_size
from rmtcli.pipeline.prepare import prepare
from rmtcli.pipeline.request import Request
from rmtcli.planning import Budget, Drop, Goal, Margins, Range, paired_drop, smallest, soft_drop

WIDTHS = [784, 1000, 1000, 1000, 500, 10]
#: Number of sizes, and the range of them as shares of the parameters, in percent.
SIZES = 60
RANGES = {"residual": (14, 60), "MLP": (2.2, 15)}
#: Points that may be lost, numbers of samples, and selections of each number.
LIMIT, COUNTS, DRAWS = 0.5, (500, 1_000, 2_000, 5_000), 200
#: A choice counts as good within this factor of the smallest size that keeps the limit.
FACTOR = 1.4


class Residual(nn.Module):
    """A block of two convolutions beside the identity, or beside a convolution of its own."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.short = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's outputs."""
        y = self.bn2(self.second(torch.relu(self.bn1(self.first(x)))))
        return torch.relu(y + self.short(x))


def residual() -> nn.Module:
    """A residual network for images of 28×28 pixels, in rows of 784."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 32, 3, 2, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        Residual(32, 64, 2),
        Residual(64, 128, 2),
        Residual(128, 256, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def train_residual(idx_folder: Path, path: Path, epochs: int = 4) -> None:
    """Train the residual network and write it, unless it is there."""
    if path.exists():
        return
    torch.manual_seed(0)
    images, labels = read_split(idx_folder, "train")
    x, y = torch.tensor(images / 255, dtype=torch.float32), torch.tensor(labels).long()
    model = residual().train()
    steps = epochs * (len(x) // 128)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128)[: len(x) // 128]:
            optimizer.zero_grad()
            functional.cross_entropy(model(x[rows]), y[rows], label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
    save_file(model.state_dict(), path)


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A network of many sizes on all test images.

    Attributes:
        sizes: shape (sizes,), parameters in increasing order; the last is the dense network.
        right: shape (sizes, samples), whether each is right.
        margins: shape (sizes, samples), the score of the dense network's class less the largest
            other score.
        dense: shape (samples, classes), the dense network's scores.
        labels: shape (samples,).
    """

    sizes: NDArray[np.int64]
    right: NDArray[np.bool_]
    margins: FloatArray
    dense: FloatArray
    labels: NDArray[np.int64]

    @property
    def drops(self) -> FloatArray:
        """Points lost at each size on all images."""
        return np.asarray(100 * (self.right[-1].mean() - self.right.mean(1)))


def measured(
    path: Path,
    data: Path,
    shares: tuple[float, float],
    model: str | None = None,
    *,
    calibration: Path | None = None,
    count: int = SIZES,
) -> Measured:
    """Prune a network to many sizes, calibrated on training images, and score each.

    Args:
        path: the network.
        data: the test images, and the training images.
        shares: the smallest and the largest size, in percent of the parameters.
        model: the network's class, if the file does not tell it.
        calibration: other images to calibrate on.
        count: number of sizes.
    """
    harness = rmtcli.Evaluation(data, model=model).resolve(open_checkpoint(path))
    request = Request(
        Goal("auto", Budget("100%"), None),
        selection=rmtcli.Selection(convolutions=model is not None),
        calibration=rmtcli.Calibration(calibration or data),
    )
    prepared = prepare(harness, request)
    allocation, dense = allocate(prepared), build(harness)
    samples = harness.samples
    assert samples is not None
    reading = reading_of(harness, dense, samples)
    outputs = {allocation.total: scores(dense, samples, reading)}
    for share in np.geomspace(*shares, count):
        network = at_size(prepared, allocation, int(share / 100 * allocation.total)).network
        outputs[network.parameters] = scores(build(harness, network), samples, reading)
    sizes = np.array(sorted(outputs))
    labels = np.asarray(samples.targets, np.int64)
    right = np.array([outputs[size].argmax(1) == labels for size in sizes])
    table = outputs[allocation.total].astype(np.float64)
    margins = np.array([confidence(outputs[size], table.argmax(1)) for size in sizes])
    return Measured(sizes, right, margins, table, labels)


Loss = Callable[[Measured, NDArray[np.intp]], Callable[[int], Drop]]


def by_soft_drop(network: Measured, rows: NDArray[np.intp]) -> Callable[[int], Drop]:
    """What each size loses on some samples, as ``prune`` measures it."""
    second, first = np.sort(probabilities(network.dense[rows], network.labels[rows]))[:, -2:].T
    right, margins = network.right[:, rows], network.margins[:, rows]
    dense = Margins(margins[-1], first - second)
    return lambda i: soft_drop(right[-1], right[i], dense, dense.own - margins[i])


def by_counting(network: Measured, rows: NDArray[np.intp]) -> Callable[[int], Drop]:
    """What each size loses on some samples, by counting right and wrong."""
    return lambda i: paired_drop(network.right[-1, rows], network.right[i, rows])


def print_rows(name: str, network: Measured, title: str, loss: Loss) -> None:
    """Print how large the choices are, and how often the limit is kept."""
    dense, drops = int(network.sizes[-1]), network.drops
    oracle = network.sizes[drops <= LIMIT].min()
    sizes = Range(int(network.sizes[0]), int(network.sizes[SIZES // 2]), dense)
    for count in COUNTS:
        indices, stated = [], []
        for draw in range(DRAWS):
            rows = np.random.default_rng(draw).choice(len(network.labels), count, replace=False)
            measure = loss(network, rows)

            def at(size: int, measure: Callable[[int], Drop] = measure) -> Drop:
                return measure(int(np.searchsorted(network.sizes, size)))

            result = smallest(sizes, at, LIMIT)
            size = dense if result is None else result[0]
            indices.append(int(np.searchsorted(network.sizes, size)))
            stated.append(1.0 if result is None else result[1].confidence(LIMIT))
        chosen = network.sizes[indices]
        low, middle, high = 100 * np.quantile(chosen, (0.1, 0.5, 0.9)) / dense
        print_row(
            name,
            f"{100 * oracle / dense:.1f} %",
            title,
            f"{count:,}",
            f"{middle:.1f} ({low:.1f}–{high:.1f}) %",
            f"{100 * np.mean(chosen <= FACTOR * oracle):.0f} %",
            f"{100 * np.mean(drops[indices] <= LIMIT):.0f} %",
            f"{100 * np.mean(stated):.0f} %",
        )


def main() -> None:
    """Train the networks, prune them to many sizes, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("mnist", type=Path, help="folder with the IDX files of MNIST")
    parser.add_argument("fashion", type=Path, help="folder with the IDX files of Fashion-MNIST")
    parser.add_argument("--folder", type=Path, help="directory for networks and images")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        images, clothes = folder / "mnist.npz", folder / "fashion.npz"
        write_data(arguments.mnist, images)
        write_data(arguments.fashion, clothes)
        train_residual(arguments.fashion, folder / "residual.safetensors")
        mlp = trained(arguments.mnist, folder, WIDTHS, 1, lr=0.01, epochs=8)[0]
        networks = {
            "residual": (folder / "residual.safetensors", clothes, "benchmarks.guard:residual"),
            "MLP": (mlp, images, None),
        }
        heads = ("samples", "size: median (10–90 %)", "within 1.4", "limit kept", "stated")
        print_row("network", "smallest", "loss", *heads)
        print_row(*["---"] * 8)
        for title, (path, data, model) in networks.items():
            network = measured(path, data, RANGES[title], model)
            print_rows(title, network, "soft drop", by_soft_drop)
            print_rows(title, network, "counting", by_counting)


if __name__ == "__main__":
    main()
