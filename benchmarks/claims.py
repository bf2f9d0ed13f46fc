"""Two published claims about spectra and compression: docs/benchmarks-spectra.md.

    python -m benchmarks.claims IDX_FOLDER [--seeds 5] [--networks DIR]

The networks of benchmarks.compression, pruned without data and without retraining.

1. The stable rank of a layer times its compression γ, the ratio of its numbers before and after, is
   said to predict the loss (arXiv 2604.18085): one layer at a time is truncated to several sizes,
   and rank correlations with the divergence of the outputs are printed, within each network, beside
   those of simpler predictors.
2. AlphaPruning (Lu et al., NeurIPS 2024) prunes a layer less the heavier its tail is: the share
   that a layer loses is linear in its exponent α, from 1 − τ to 1 + τ times a common one. τ is 0.3,
   or less where a layer would keep less than half of the mean share.

Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

import rmtcli
from benchmarks.compression import METHODS, SHARES, SIZES, networks, print_reports
from benchmarks.networks import at_size, print_row, spread
from rmtcli.planning import LayerPlan, Plan
from rmtcli.report.base import Report

#: Shares of a layer's numbers to which it is truncated alone.
ALONE = (0.4, 0.2, 0.1, 0.05)
#: Spread of the shares that layers lose, in AlphaPruning.
TAU = 0.3
BASELINES = ("no data, one budget", "no data, uniform ratio")


def predictors(path: Path, data: Path) -> dict[str, list[float]]:
    """The divergence that truncating one layer at a time causes, with what may predict it."""
    plan = rmtcli.prune(path, dry_run=True).plan
    assert plan is not None
    columns: dict[str, list[float]] = {}
    for name in [layer.name for layer in plan.layers if min(layer.shape) > SIZES[-1]]:
        for share in ALONE:
            report = _alone(path, data, plan, name, share)
            layer = next(item for item in report.pruned if item.layer.name == name)
            stable, gamma = layer.diagnostics.stable_rank, layer.layer.size / layer.size
            assert report.comparison is not None
            assert report.comparison.divergence is not None
            row = {
                "damage": report.comparison.divergence,
                "γ · stable rank": gamma * stable,
                "γ alone": gamma,
                "stable rank alone": stable,
                "‖W − W_r‖ / ‖W‖": layer.relative_error,
            }
            for key, value in row.items():
                columns.setdefault(key, []).append(value)
    return columns


def _alone(path: Path, data: Path, plan: Plan, name: str, share: float) -> Report:
    """A network of which one layer is truncated to a share of its numbers."""
    shape = next(layer.shape for layer in plan.layers if layer.name == name)
    one = with_ranks(plan, {name: int(share * np.prod(shape) / sum(shape))})
    return rmtcli.prune(path, plan=one, evaluation=rmtcli.Evaluation(data), dry_run=True)


def with_ranks(plan: Plan, ranks: Mapping[str, int]) -> Plan:
    """A plan with these ranks, which leaves all other layers as they are."""
    layers = (replace(layer, rank=ranks.get(layer.name)) for layer in plan.layers)
    return replace(plan, layers=tuple(layers))


def alpha_pruning(path: Path, data: Path, share: float) -> Report:
    """Prune a network with the shares of AlphaPruning, to a share of its parameters."""
    dense = rmtcli.prune(path, dry_run=True)
    assert dense.plan is not None
    free = [layer for layer in dense.layers if not layer.layer.head]

    def at(kept: float) -> Report:
        ranks = {
            item.layer.name: max(1, int(share * item.layer.size / sum(item.layer.shape)))
            for item, share in zip(free, alpha_shares(free, kept), strict=True)
        }
        assert dense.plan is not None
        return rmtcli.prune(path, plan=with_ranks(dense.plan, ranks), dry_run=True)

    sized = at_size(round(share / 100 * dense.parameters[0]), at)
    return rmtcli.prune(path, plan=sized.plan, evaluation=rmtcli.Evaluation(data), dry_run=True)


def alpha_shares(layers: Sequence[LayerPlan], kept: float) -> NDArray[np.float64]:
    """The share of its numbers that each layer keeps in AlphaPruning, ``kept`` on average."""
    alphas = np.array([layer.diagnostics.tail_alpha or np.nan for layer in layers])
    alphas = np.where(np.isnan(alphas), np.nanmean(alphas), alphas)
    scaled = (alphas - alphas.min()) / (np.ptp(alphas) or 1.0)
    # No layer keeps less than half of the mean share: a layer that is lost breaks the network.
    tau = min(TAU, kept / 2 / (1 - kept))
    return np.asarray(1 - (1 - kept) * (1 - tau + 2 * tau * scaled))


def print_predictors(tables: Sequence[Mapping[str, list[float]]]) -> None:
    """Print how each predictor ranks the damage, within each network."""
    print_row("predictor", "Spearman correlation with the damage")
    print_row("---", "---")
    for key in list(tables[0])[1:]:
        values = [float(spearmanr(table[key], table["damage"]).statistic) for table in tables]
        print_row(key, spread(values) if len(values) > 1 else f"{values[0]:.2f}")


def main() -> None:
    """Train the networks, and print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("idx_folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--networks", type=Path, help="folder to keep trained networks in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.networks or Path(name)
        models = networks(arguments.idx_folder, folder, arguments.seeds)
        data = folder / "test.npz"
        tables = [predictors(path, data) for path in models]
        print_predictors(tables)
        print()
        print_row("method", "parameters left", "dense", "pruned", "drop, points", "largest drop")
        print_row(*["---"] * 6)
        for share in SHARES:
            reports = [alpha_pruning(path, data, share) for path in models]
            print_reports("no data, AlphaPruning", reports)
            for title in BASELINES:
                method = METHODS[title]
                print_reports(title, [method(path, folder / "mnist.npz", share) for path in models])


if __name__ == "__main__":
    main()
