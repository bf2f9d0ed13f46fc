"""Ways to weight directions without data: docs/benchmarks-linear.md.

    python -m benchmarks.weights IDX_FOLDER [--seeds 5]

The networks are those of benchmarks.compression. A budget is divided among truncated layers, with
the eigenvalues λ of each layer weighted in several ways. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

import rmtcli
from benchmarks.compression import SHARES, SIZES, print_reports
from benchmarks.networks import print_row, trained, write_data
from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import open_checkpoint
from rmtcli.edges import EDGES
from rmtcli.layers import Layer, find_layers
from rmtcli.planning import Fitted, fit_layer
from rmtcli.planning.allocate import RankOptions, allocate
from rmtcli.report.base import Report

#: Functions from a layer's eigenvalues, descending, to losses that are comparable between layers.
WEIGHTS: dict[str, Callable[[FloatArray, Fitted], FloatArray]] = {
    "λ / λ₁, as `--budget` does": lambda v, _: v / v[0],
    "λ · n, the squared singular values": lambda v, item: v * item.spectrum.n,
    "λ / Σλ, shares of ‖W‖²": lambda v, _: v / v.sum(),
    "λ / edge": lambda v, item: v / item.fit.edge,
    "(λ − edge)₊ / (λ₁ − edge), and 1 % of λ / λ₁": lambda v, item: (
        _above(v, item) / max(float(v[0]) - item.fit.edge, 1e-12) + 0.01 * v / v[0]
    ),
    "λ / Σ(λ − edge)₊, shares of the signal": lambda v, item: v / _above(v, item).sum(),
}


def _above(values: FloatArray, item: Fitted) -> FloatArray:
    return np.asarray(np.maximum(values - item.fit.edge, 0.0))


def pruned(path: Path, data: Path, share: int, fits: list[Fitted], title: str) -> Report:
    """Prune a network under a budget, with the eigenvalues weighted in one way."""
    report = rmtcli.prune(path, dry_run=True)
    assert report.plan is not None
    choices = [
        RankOptions(
            WEIGHTS[title](item.spectrum.eigenvalues[::-1], item),
            sum(item.layer.shape) * np.arange(1 + item.spectrum.p),
            item.layer.size,
        )
        for item in fits
    ]
    fixed = report.source.parameters - sum(item.layer.size for item in fits)
    ranks = allocate(choices, round(share / 100 * report.source.parameters) - fixed)
    rank_of = {item.layer.name: rank for item, rank in zip(fits, ranks, strict=True)}
    layers = (replace(layer, rank=rank_of.get(layer.name)) for layer in report.plan.layers)
    plan = replace(report.plan, layers=tuple(layers))
    return rmtcli.prune(path, plan=plan, evaluation=rmtcli.Evaluation(data), dry_run=True)


def fitted(path: Path) -> list[Fitted]:
    """Fits of the layers that may be pruned."""
    estimator = EDGES.parse("bema")
    layers = [x for x in find_layers(open_checkpoint(path)) if isinstance(x, Layer)]
    fits = [fit_layer(layer, estimator) for layer in layers if not layer.head]
    return [item for item in fits if isinstance(item, Fitted)]


def main() -> None:
    """Train the networks, prune them and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("idx_folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--networks", type=Path, help="folder to keep trained networks in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.networks or Path(name)
        write_data(arguments.idx_folder, folder / "test.npz", training=False)
        models = trained(arguments.idx_folder, folder, SIZES, arguments.seeds, lr=0.01, epochs=8)
        fits = [fitted(path) for path in models]
        print_row("weight", "parameters left", "dense", "pruned", "drop, points", "largest drop")
        print_row(*["---"] * 6)
        for share in SHARES:
            for title in WEIGHTS:
                pairs = zip(models, fits, strict=True)
                reports = [pruned(p, folder / "test.npz", share, f, title) for p, f in pairs]
                print_reports(title, reports)


if __name__ == "__main__":
    main()
