"""Two published claims about spectra and compression: tables of docs/benchmarks.md.

    python -m benchmarks.claims IDX_FOLDER [--seeds 5] [--networks DIR]
    python -m benchmarks.claims --minilm [--folder DIR]

The networks of benchmarks.compression, or MiniLM of benchmarks.minilm, pruned without data and
without retraining.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

import rmtcli
from benchmarks.compression import METHODS, SHARES, SIZES, networks, print_reports
from benchmarks.minilm import METHODS as MINILM
from benchmarks.minilm import Bench, minilm
from benchmarks.networks import at_size, print_row, spread
from rmtcli.planning import Plan
from rmtcli.report.base import Report

#: Shares of a layer's numbers to which it is truncated alone.
ALONE = (0.4, 0.2, 0.1, 0.05)
#: Spread of the shares that layers lose, in AlphaPruning.
TAU = 0.3
#: Sentences on which MiniLM is measured with one layer truncated.
FEW = 100
#: Carries out a plan, or gives the plan of the default rule.
Prune = Callable[[Plan | None], Report]
BASELINES = ("no data, one budget", "no data, uniform ratio")


def predictors(
    prune: Prune, damage: Callable[[Report], float], names: Sequence[str]
) -> dict[str, list[float]]:
    """What truncating one layer at a time costs, with what may predict it.

    Args:
        prune: carries out a plan, and measures the network.
        damage: the cost, from a report.
        names: the layers.
    """
    plan = prune(None).plan
    assert plan is not None
    columns: dict[str, list[float]] = {}
    for name in names:
        shape = next(layer.shape for layer in plan.layers if layer.name == name)
        for share in ALONE:
            rank = int(share * np.prod(shape) / sum(shape))
            report = prune(with_ranks(plan, {name: rank}))
            layer = next(item for item in report.pruned if item.layer.name == name)
            stable, gamma = layer.diagnostics.stable_rank, layer.layer.size / layer.size
            row = {
                "damage": damage(report),
                "γ · stable rank": gamma * stable,
                "γ alone": gamma,
                "stable rank alone": stable,
                "‖W − W_r‖ / ‖W‖": layer.relative_error,
            }
            for key, value in row.items():
                columns.setdefault(key, []).append(value)
    return columns


def print_predictors(tables: Sequence[Mapping[str, Sequence[float]]]) -> None:
    """Print how each predictor ranks the damage, within each network."""
    print_row("predictor", "Spearman correlation with the damage")
    print_row("---", "---")
    for key in list(tables[0])[1:]:
        values = [float(spearmanr(t[key], t["damage"]).statistic) for t in tables]
        print_row(key, spread(values) if len(values) > 1 else f"{values[0]:.2f}")


def with_ranks(plan: Plan, ranks: Mapping[str, int]) -> Plan:
    """A plan with these ranks, which leaves all other layers as they are."""
    layers = (replace(layer, rank=ranks.get(layer.name)) for layer in plan.layers)
    return replace(plan, layers=tuple(layers))


def alpha_pruning(prune: Prune, dense: Report, size: int) -> Plan:
    """The shares of AlphaPruning, for a number of parameters.

    Args:
        prune: carries out a plan.
        dense: the report of the dense network's layers, those included that stay.
        size: the number of parameters.
    """
    assert dense.plan is not None
    plan, free = dense.plan, [layer for layer in dense.layers if not layer.layer.head]
    alphas = np.array([layer.diagnostics.tail_alpha or np.nan for layer in free])
    alphas = np.where(np.isnan(alphas), np.nanmean(alphas), alphas)
    scaled = (alphas - alphas.min()) / (np.ptp(alphas) or 1.0)

    def at(kept: float) -> Report:
        # No layer keeps less than half of the mean share: a layer that is lost breaks the network.
        tau = min(TAU, kept / 2 / (1 - kept))
        shares = 1 - (1 - kept) * (1 - tau + 2 * tau * scaled)
        ranks = {
            item.layer.name: max(1, int(share * item.layer.size / sum(item.layer.shape)))
            for item, share in zip(free, shares, strict=True)
        }
        return prune(with_ranks(plan, ranks))

    sized = at_size(size, at).plan
    assert sized is not None
    return sized


def divergence(report: Report) -> float:
    """The divergence of the network's outputs from the dense network's."""
    assert report.comparison is not None
    assert report.comparison.divergence is not None
    return report.comparison.divergence


def distance(report: Report) -> float:
    """One less the mean cosine with the dense network's embeddings."""
    assert report.comparison is not None
    assert report.comparison.cosines is not None
    return 1 - float(report.comparison.cosines.mean())


def on_mnist(idx_folder: Path, folder: Path, seeds: int) -> None:
    """Train the networks, and print both tables."""
    models = networks(idx_folder, folder, seeds)

    def prune(path: Path, plan: Plan | None, *, measured: bool = True) -> Report:
        evaluation = rmtcli.Evaluation(folder / "test.npz") if measured else None
        return rmtcli.prune(path, plan=plan, evaluation=evaluation, dry_run=True)

    tables, dense = [], [prune(path, None, measured=False) for path in models]
    for path, report in zip(models, dense, strict=True):
        names = [item.layer.name for item in report.layers if min(item.layer.shape) > SIZES[-1]]
        tables.append(predictors(partial(prune, path), divergence, names))
    print_predictors(tables)
    print()
    print_row("method", "parameters left", "dense", "pruned", "drop, points", "largest drop")
    print_row(*["---"] * 6)
    for share in SHARES:
        reports = []
        for path, report in zip(models, dense, strict=True):
            size = round(share / 100 * report.parameters[0])
            plan = alpha_pruning(partial(prune, path, measured=False), report, size)
            reports.append(prune(path, plan))
        print_reports("no data, AlphaPruning", reports)
        for title in BASELINES:
            method = METHODS[title]
            print_reports(title, [method(path, folder / "mnist.npz", share) for path in models])


def on_minilm(folder: Path) -> None:
    """Print both tables for the encoder of MiniLM."""
    bench = Bench(minilm(), folder)
    few = folder / "few.txt"
    lines = bench.test.read_text(encoding="utf-8").splitlines()[:FEW]
    few.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def prune(plan: Plan | None, data: Path | None = few) -> Report:
        return rmtcli.prune(
            bench.source,
            plan=plan,
            keep="auto",
            selection=None if plan else bench.selection,
            evaluation=rmtcli.Evaluation(data) if data else None,
            calibration=None if plan else rmtcli.Calibration("none"),
            cache=folder / "cache",
            dry_run=True,
        )

    print_predictors([predictors(prune, distance, [p.layer.name for p in bench.dense.layers])])
    print()
    print_row("method", "encoder's weights", "mean cosine")
    print_row("---", "---", "---")
    dense = prune(None, None)
    for share in (70.0, 50.0):
        size = bench.budget(share).amount(dense.parameters[0])
        plan = alpha_pruning(lambda plan: prune(plan, None), dense, size)
        titles = {"no data, AlphaPruning": prune(plan, bench.test)}
        titles |= {title: MINILM[title](bench, share) for title in BASELINES}
        for title, report in titles.items():
            print_row(title, f"{share:g} %", f"{1 - distance(report):.3f}")


def main() -> None:
    """Print the tables of the networks that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("idx_folder", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--networks", type=Path, help="folder to keep trained networks in")
    parser.add_argument("--minilm", action="store_true")
    parser.add_argument("--folder", type=Path, help="folder to keep text and decompositions in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.minilm:
            torch.set_num_threads(1)
            on_minilm(arguments.folder or Path(name))
        else:
            on_mnist(arguments.idx_folder, arguments.networks or Path(name), arguments.seeds)


if __name__ == "__main__":
    main()
