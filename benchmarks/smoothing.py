"""WeightWatcher's RMT smoothing compared with rmtcli at equal size: docs/benchmarks-linear.md.

    pip install weightwatcher && python -m benchmarks.smoothing IDX_FOLDER [--seeds 5]

The networks are those of benchmarks.compression. ``SVDSmoothing(method="rmt")`` truncates every
layer, including the output head, to its number of spikes; its size is that of factors of these
ranks. Prints Markdown.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from weightwatcher import WeightWatcher

import rmtcli
from benchmarks.compression import METHODS, SIZES, print_reports
from benchmarks.networks import print_row, spread, trained, write_data
from rmtcli.experiments.networks import mlp


def smoothed(path: Path, target: Path) -> tuple[list[int], float]:
    """Smooth a network; return the ranks, and the size of factors of these ranks in percent."""
    model = mlp(SIZES, 0)
    model.load_state_dict(load_file(path))
    dense = sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        WeightWatcher(model=model).SVDSmoothing(model=model, method="rmt")
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, target)
    weights = [p.detach().double() for name, p in model.named_parameters() if p.ndim == 2]
    # Smoothing works in float32: singular values below its rounding were truncated.
    ranks = [int(torch.linalg.matrix_rank(w, rtol=1e-5)) for w in weights]
    size = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    size += sum(min(r * sum(w.shape), w.numel()) for r, w in zip(ranks, weights, strict=True))
    return ranks, 100 * size / dense


def main() -> None:
    """Train the networks, smooth them, prune them to the same size and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("idx_folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--networks", type=Path, help="folder to keep trained networks in")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.networks or Path(name)
        write_data(arguments.idx_folder, folder / "mnist.npz")
        write_data(arguments.idx_folder, folder / "test.npz", training=False)
        models = trained(arguments.idx_folder, folder, SIZES, arguments.seeds, lr=0.01, epochs=8)
        reports, sizes = [], []
        for path in models:
            ranks, size = smoothed(path, folder / "smoothed.safetensors")
            print(f"{path.name}: ranks {ranks}")
            sizes.append(size)
            evaluation = rmtcli.Evaluation(folder / "mnist.npz")
            target = folder / "smoothed.safetensors"
            reports.append(rmtcli.evaluate(target, evaluation=evaluation, against=path))
        print_row("method", "parameters left", "dense", "pruned", "drop, points", "largest drop")
        print_row(*["---"] * 6)
        scores = [r.comparison for r in reports if r.comparison is not None]
        drops = [c.drop for c in scores if c.drop is not None]
        print_row(
            "WeightWatcher, RMT smoothing",
            f"{spread(sizes)} %",
            spread([c.before.accuracy or 0.0 for c in scores if c.before is not None]),
            spread([c.after.accuracy or 0.0 for c in scores]),
            spread(drops),
            f"{np.max(drops):.2f}",
        )
        for title, method in METHODS.items():
            pruned = [
                method(path, folder / "mnist.npz", round(size, 3))
                for path, size in zip(models, sizes, strict=True)
            ]
            print_reports(title, pruned)


if __name__ == "__main__":
    main()
