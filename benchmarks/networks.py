"""Trained networks and their reports, for the benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from rmtcli.experiments.idx import read_split
from rmtcli.experiments.networks import mlp
from rmtcli.report.base import Report
from sample_models.make import CALIBRATION_IMAGES, train


def write_data(idx_folder: Path, path: Path, *, training: bool = True) -> None:
    """Write all test images and, for calibration, training images drawn at random."""
    images, labels = read_split(idx_folder, "train")
    test_images, test_labels = read_split(idx_folder, "t10k")
    if not training:
        np.savez(path, inputs=test_images, targets=test_labels)
        return
    rows = np.random.default_rng(0).permutation(len(images))[:CALIBRATION_IMAGES]
    arrays = {"train_inputs": images[rows], "train_targets": labels[rows]}
    np.savez(path, inputs=test_images, targets=test_labels, **arrays)


def trained(
    idx_folder: Path, folder: Path, sizes: list[int], seeds: int, *, lr: float, epochs: int
) -> list[Path]:
    """One network per seed, trained as in sample_models/make.py; reuses networks in ``folder``."""
    images, labels = read_split(idx_folder, "train")
    name = "-".join(map(str, sizes))
    paths = [folder / f"{name}.seed{seed}.safetensors" for seed in range(seeds)]
    for seed, path in enumerate(paths):
        if not path.exists():
            model = mlp(sizes, seed)
            train(model, images, labels, lr=lr, epochs=epochs)
            save_file(model.state_dict(), path)
    return paths


def at_size(parameters: int, run: Callable[[float], Report]) -> Report:
    """Bisect the rule's option for the report whose size is closest to ``parameters``."""
    low, high, best = 0.0, 0.999, run(0.5)
    for _ in range(12):
        middle = (low + high) / 2
        report = run(middle)
        if abs(report.parameters[1] - parameters) < abs(best.parameters[1] - parameters):
            best = report
        # Above its break-even rank a layer stays dense, which is larger still: sizes stay
        # monotonic.
        low, high = (middle, high) if report.parameters[1] < parameters else (low, middle)
    return best


def accuracy(report: Report) -> float:
    """Test accuracy of the pruned network, in percent."""
    assert report.comparison is not None
    assert report.comparison.after.accuracy is not None
    return report.comparison.after.accuracy


def dense(report: Report) -> float:
    """Test accuracy of the dense network, in percent."""
    assert report.comparison is not None
    assert report.comparison.before is not None
    assert report.comparison.before.accuracy is not None
    return report.comparison.before.accuracy


def spread(values: list[float]) -> str:
    """Mean and standard deviation over the networks."""
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def print_row(*cells: str) -> None:
    """Print one row of a Markdown table."""
    print(f"| {' | '.join(cells)} |", flush=True)
