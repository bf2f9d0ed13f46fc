"""Peak memory and time against the size of a checkpoint: docs/benchmarks-speed.md.

    python -m benchmarks.memory FOLDER [--gigabytes 2 4 8] [--side 2048]

Creates checkpoints of float32 layers, as sharded Hugging Face directories, in the folder, which
needs room for three times the largest. Linux only. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from benchmarks.speed import header, row

#: Runs the program and prints the peak of its resident memory as the kernel records it.
PROGRAM = """
import re, sys
try:
    if len(sys.argv) == 1:
        import torch
    else:
        from rmtcli.cli.main import main
        main()
finally:
    with open("/proc/self/status") as file:
        print(re.search(r"VmHWM:\\s+(\\d+)", file.read())[1], file=sys.stderr)
"""
SHARD_LAYERS = 32


def sharded(folder: Path, layers: int, side: int) -> None:
    """Write layers of noise with four planted directions, one shard at a time."""
    folder.mkdir()
    rng, weight_map = np.random.default_rng(0), {}
    shards = -(-layers // SHARD_LAYERS)
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        tensors = {}
        for j in range(i * SHARD_LAYERS, min((i + 1) * SHARD_LAYERS, layers)):
            tensors[f"h.{j}.weight"] = rng.standard_normal((side, side), dtype=np.float32)
            a, b = rng.standard_normal((2, side, 4), dtype=np.float32)
            tensors[f"h.{j}.weight"] += 0.2 * a @ b.T
        save_file(tensors, folder / file)
        weight_map |= dict.fromkeys(tensors, file)
    index = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index)
    (folder / "config.json").write_text('{"model_type": "llama"}')


def measured(*arguments: object) -> tuple[float, float]:
    """Run rmtcli, or only import torch; return the peak memory in megabytes, and seconds."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    return int(done.stderr.split()[-1]) / 1024, time.perf_counter() - start


def main() -> None:
    """Create the checkpoints, run the commands and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[2.0, 4.0, 8.0])
    parser.add_argument("--side", type=int, default=2048)
    arguments = parser.parse_args()
    torch, _ = measured()
    largest = 8 * arguments.side**2 / 2**20
    print(f"import torch: {torch:.0f} MB; with 4 layers in float64: {torch + 4 * largest:.0f} MB\n")
    header("checkpoint", "layers", "command", "peak memory, MB", "seconds", "seconds per layer")
    for size in arguments.gigabytes:
        layers = round(size * 1e9 / (4 * arguments.side**2))
        source, target = arguments.folder / "dense", arguments.folder / "pruned"
        sharded(source, layers, arguments.side)
        for command in ([], ["--keep", "rank:k=64"], ["--budget", "40%"]):
            verb = ["prune", source, "-o", target, *command] if command else ["analyze", source]
            peak, seconds = measured(*verb)
            name = " ".join(["prune", *command]) if command else "analyze"
            each = f"{seconds / layers:.2f}"
            row(f"{size:g} GB", str(layers), name, f"{peak:.0f}", f"{seconds:.0f}", each)
            shutil.rmtree(target, ignore_errors=True)
        shutil.rmtree(source)


if __name__ == "__main__":
    main()
