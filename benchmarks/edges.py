"""Edge estimators compared with other programs and an oracle: docs/benchmarks-spectra.md.

    python -m benchmarks.edges [noise|spikes|unequal] [--seeds 100] [--methods NAME,NAME]
        [--rows TEXT]

``noise``: share of pure noise matrices with a spike; the nominal rate is beta = 0.1. Rates need
many seeds: use 1000. Above 256 singular values, only two fifths of the seeds are drawn.
``spikes``: mean number of planted spikes found, and the ratio of estimated to true sigma.
``unequal``: false spikes in noise that is not white.
WeightWatcher's fit is included if it is installed. sign-flip decomposes twenty matrices for each
weight. Prints Markdown.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from rmtcli.edges import EDGES
from rmtcli.edges.base import Noise
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.noise import NOISES, planted
from rmtcli.spectra import Spectrum, spectrum

#: (number of spikes, estimated sigma).
Estimate = tuple[int, float]
Method = Callable[[Spectrum, np.ndarray], Estimate]

BETA = 0.1
NOISE = tuple((gamma, p) for gamma in (1.0, 0.5, 0.25, 0.125) for p in (64, 128, 256, 512, 1024))
SHAPES = ((512, 512), (1000, 500), (2048, 512))
PLANTED = ((0, 3.0), (5, 1.2), (20, 1.2), (5, 1.5), (20, 1.5), (5, 3.0), (20, 3.0), (100, 3.0))
UNEQUAL = (
    ((300, 784), "row-scaled:spread=0.25"),
    ((300, 784), "row-scaled:spread=0.5"),
    ((784, 300), "row-scaled:spread=0.25"),
    ((784, 300), "row-scaled:spread=0.5"),
    ((300, 784), "student:df=3"),
    ((300, 784), "sparse:density=0.05"),
    ((300, 784), "correlated:rho=0.5"),
)


def oracle(s: Spectrum, weight: np.ndarray) -> Estimate:
    """Count the spikes above the edge computed with the true sigma."""
    edge = Noise.of(MarchenkoPastur(s.gamma), s.p).edge(BETA)
    return s.count_above(edge), 1.0


def iqr(s: Spectrum, weight: np.ndarray) -> Estimate:
    """Apply laserRMT's rule: sigma from the interquartile range of the singular values."""
    values = np.sqrt(s.n * s.eigenvalues)
    low, high = np.quantile(values, [0.25, 0.75])
    sigma = (high - low) / 1.349
    threshold = sigma * math.sqrt((1 + math.sqrt(s.gamma)) ** 2)
    return int(np.count_nonzero(values > threshold)), sigma


def weightwatcher() -> Method:
    """WeightWatcher's ``mp_fit``; its sigma refers to the rescaled spectrum."""
    import logging

    from weightwatcher import WeightWatcher

    watcher = WeightWatcher()
    logging.disable(logging.WARNING)
    silent = {"plot": False, "savefig": False, "savedir": "", "color": "", "hist_alpha": 0}

    def fit(s: Spectrum, weight: np.ndarray) -> Estimate:
        values = s.n * s.eigenvalues
        spikes, sigma, *_ = watcher.mp_fit(
            values, s.n, s.p, 1, "", 0, 0, rescale=True, orig_evals=values, **silent
        )
        return spikes, sigma * math.sqrt(float(s.eigenvalues.mean()))

    return fit


def ours(spelling: str) -> Method:
    """A registered estimator of rmtcli."""
    estimator = EDGES.parse(spelling)

    def fit(s: Spectrum, weight: np.ndarray) -> Estimate:
        edge_fit = estimator.fit(s, weight)
        return s.count_above(edge_fit.edge), edge_fit.law.sigma

    return fit


def methods() -> dict[str, Method]:
    """All methods by their column names, the default estimator first."""
    names = ["select", *(name for name in EDGES.choices if name != "select")]
    columns = {name: ours(name) for name in names} | {"IQR rule": iqr, "known sigma": oracle}
    if find_spec("weightwatcher"):
        columns["WeightWatcher"] = weightwatcher()
    return columns


def cell(
    shape: tuple[int, int], noise: str, seeds: int, each: Mapping[str, Method], **signal: Any
) -> dict[str, np.ndarray]:
    """Estimates of each method, as arrays of shape (seeds, 2)."""
    kind = NOISES.parse(noise)
    estimates: dict[str, list[Estimate]] = {name: [] for name in each}
    for seed in range(seeds):
        weight = planted(np.random.default_rng([seed, *shape]), shape, kind, **signal)
        s = spectrum(weight)
        for name, method in each.items():
            estimates[name].append(method(s, weight))
    return {name: np.array(values, dtype=float) for name, values in estimates.items()}


def noise_table(seeds: int, each: Mapping[str, Method], rows: str) -> None:
    """Print the share of noise matrices with a spike, and its standard error at rate beta."""
    header("noise", each, "seeds", "standard error")
    for noise in ("gaussian", "uniform"):
        for gamma, p in NOISE:
            label = f"{noise}, {round(p / gamma)}×{p}"
            if rows not in label:
                continue
            drawn = seeds if p <= 256 else 2 * seeds // 5
            estimates = cell((round(p / gamma), p), noise, drawn, each)
            rates = [f"{np.mean(estimates[name][:, 0] > 0):.3f}" for name in each]
            row(label, [*rates, str(drawn), f"{math.sqrt(BETA * (1 - BETA) / drawn):.3f}"])


def spikes_table(seeds: int, each: Mapping[str, Method], rows: str) -> None:
    """Print the mean number of spikes found, and sigma in brackets."""
    header("planted", each)
    for shape in SHAPES:
        for rank, times in PLANTED:
            label = f"{shape[0]}×{shape[1]}, {rank} at {times:g}×"
            if rows not in label:
                continue
            estimates = cell(shape, "gaussian", seeds, each, rank=rank, times=times)
            means = {name: values.mean(axis=0) for name, values in estimates.items()}
            row(label, [f"{means[name][0]:.2f} ({means[name][1]:.3f})" for name in each])


def unequal_table(seeds: int, each: Mapping[str, Method], rows: str) -> None:
    """Print the mean number of false spikes, and the verdicts of the default estimator."""
    header("noise", each, "verdict of select")
    for shape, noise in UNEQUAL:
        label = f"{noise}, {shape[0]}×{shape[1]}"
        if rows not in label:
            continue
        estimates = cell(shape, noise, seeds, each)
        verdicts: dict[str, int] = {}
        for seed in range(seeds):
            rng = np.random.default_rng([seed, *shape])
            weight = planted(rng, shape, NOISES.parse(noise))
            verdict = EDGES.parse("select").fit(spectrum(weight), weight).verdict
            word = verdict.name.lower().replace("_", " ")
            verdicts[word] = verdicts.get(word, 0) + 1
        cells = [f"{estimates[name][:, 0].mean():.2f}" for name in each]
        row(label, [*cells, ", ".join(f"{word} {count}" for word, count in verdicts.items())])


def header(first: str, each: Mapping[str, Method], *more: str) -> None:
    """Print the column names."""
    names = [first, *each, *more]
    print(f"| {' | '.join(names)} |")
    print(f"| {' | '.join(['---'] * len(names))} |")


def row(label: str, cells: list[str]) -> None:
    """Print one row as soon as it is computed."""
    print(f"| {label} | {' | '.join(cells)} |", flush=True)


TABLES = {"noise": noise_table, "spikes": spikes_table, "unequal": unequal_table}


def main() -> None:
    """Print the requested tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", nargs="?", choices=TABLES)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--methods", help="columns, separated by commas; all by default")
    parser.add_argument("--rows", default="", help="only rows whose label contains this")
    arguments = parser.parse_args()
    each = methods()
    if arguments.methods:
        each = {name: each[name] for name in arguments.methods.split(",")}
    for name in [arguments.table] if arguments.table else TABLES:
        TABLES[name](arguments.seeds, each, arguments.rows)
        print()


if __name__ == "__main__":
    main()
