"""The same checkpoint on one to four workers of a local Dask cluster, and without one.

``python -m benchmarks.scaling`` prints the table of docs/scale.md. Rounds are interleaved; each row
has the median and the spread of its ratio to the run without a cluster in the same round.
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

WORKERS = (1, 2, 4)


def write_model(path: Path, layers: int, side: int) -> Path:
    """A file of square layers of noise."""
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
    """Time of one analysis."""
    start = time.perf_counter()
    rmtcli.analyze(path, executor=executor)
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
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
    for count, found in ratios.items():
        spread = f"{min(found):.2f} to {max(found):.2f}"
        print(f"| {count} workers of one thread | {statistics.median(found):.2f} ({spread}) |")


if __name__ == "__main__":
    main()
