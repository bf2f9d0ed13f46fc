"""Speed-up on a local Dask cluster, and the estimated cost of a large checkpoint: docs/scale.md.

``python -m benchmarks.scaling`` analyses one checkpoint on one, two and four workers, and without a
cluster. Rounds are interleaved; each row has the median and the range of the ratio to the run
without a cluster in the same round. ``--sides 1024 2048 …`` measures one layer of each width on one
thread instead, and extrapolates from the two widest to the layers of a 400-billion-parameter
network.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from distributed import LocalCluster
from safetensors.numpy import save_file

import rmtcli
from rmtcli.computing.here import with_blas_threads
from rmtcli.spectra import spectrum

#: A published network of 405 billion parameters: blocks, and the layers of each.
BLOCKS = 126
LAYERS = ((16384, 16384, 2), (1024, 16384, 2), (53248, 16384, 3))
WORKERS = (1, 2, 4)


def write_model(path: Path, layers: int, side: int) -> Path:
    """Write a file of square layers of noise."""
    rng = np.random.default_rng(0)
    save_file(
        {
            f"layers.{i}.weight": rng.standard_normal((side, side), dtype=np.float32)
            for i in range(layers)
        },
        path,
    )
    return path


def seconds(path: Path, executor: str | None) -> float:
    """Measure the seconds of one analysis."""
    start = time.perf_counter()
    rmtcli.analyze(path, executor=executor)
    return time.perf_counter() - start


def decomposition(n: int, p: int) -> tuple[float, float]:
    """Time the Gram matrix of an n × p layer and its tridiagonal form; seconds of one thread."""
    weight = np.random.default_rng(0).standard_normal((n, p), dtype=np.float32)

    def timed(rows: int) -> float:
        start = time.perf_counter()
        with_blas_threads(lambda w: spectrum(w, vectors=True), lambda _: False, weight[:rows])
        return time.perf_counter() - start

    whole, half = timed(n), timed(n // 2)
    gram = max(0.0, 2 * (whole - half))
    return gram, whole - gram


def estimate(sides: list[int]) -> None:
    """Print the times of layers of each width, and the estimate for the large network."""
    print("| p | Gram of 2p × p, s | tridiagonal form and values, s |")
    print("| --- | --- | --- |")
    grams, forms = [], []
    for p in sides:
        gram, form = decomposition(2 * p, p)
        grams.append(gram / (2 * p**3))
        forms.append(form)
        print(f"| {p:,} | {gram:.1f} | {form:.1f} |")
    power = np.log(forms[-1] / forms[-2]) / np.log(sides[-1] / sides[-2])
    total = sum(
        count
        * (grams[-1] * max(n, m) * min(n, m) ** 2 + forms[-1] * (min(n, m) / sides[-1]) ** power)
        for n, m, count in LAYERS
    )
    weights = BLOCKS * sum(n * m * count for n, m, count in LAYERS)
    print(f"\nthe time of the tridiagonal form grows as p to the power of {power:.2f}")
    print(f"{weights / 1e9:.0f} billion weights: {BLOCKS * total / 3600:,.0f} hours of one thread")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", type=int, nargs="+")
    given = parser.parse_args()
    if given.sides:
        estimate(given.sides)
        return
    ratios: dict[int, list[float]] = {count: [] for count in WORKERS}
    here = []
    with tempfile.TemporaryDirectory() as folder:
        path = write_model(Path(folder) / "model.safetensors", given.layers, given.side)
        for _ in range(given.rounds):
            here.append(seconds(path, None))
            for count in WORKERS:
                with LocalCluster(
                    n_workers=count, threads_per_worker=1, dashboard_address=None
                ) as cluster:
                    address = str(cluster.scheduler_address).replace("tcp", "dask", 1)
                    seconds(path, address)  # the workers import what they need
                    ratios[count].append(seconds(path, address) / here[-1])
    print(f"{given.layers} layers of {given.side}×{given.side}, {given.rounds} rounds\n")
    print("| where | time as a share of the run without a cluster |")
    print("| --- | --- |")
    print(f"| no cluster ({statistics.median(here):.1f} s) | 1 |")
    for count, each in ratios.items():
        spread = f"{min(each):.2f} to {max(each):.2f}"
        print(f"| {count} workers of one thread | {statistics.median(each):.2f} ({spread}) |")


if __name__ == "__main__":
    main()
