"""Memory and time of a calibrated run by width, depth and samples: a table of docs/scale.md.

    python -m benchmarks.growth [--quick]

A chain of square linear layers of random weights is pruned to half of its parameters, in the
two-sided metric, with one thread. Each run is a process of its own; memory is its peak above what
it takes after its imports, and seconds are those of the processor after them. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from benchmarks.networks import print_row

#: Width, number of layers, samples; one of them changes from row to row.
BASE = (512, 8, 4096)
OTHERS = {0: (256, 1024), 1: (4, 16), 2: (1024, 16_384)}
RUN = """
import sys, time
import torch, rmtcli
from benchmarks.streamed import peak
rmtcli.prune, rmtcli.Calibration, rmtcli.Evaluation
import rmtcli.running.calibrate, rmtcli.evaluation.score
base, start = peak(), time.process_time()
net, data = sys.argv[1:]
calibration = rmtcli.Calibration(data)
rmtcli.prune(net, budget=rmtcli.Budget("50%"), calibration=calibration, dry_run=True)
print((peak() - base) / 1e6, time.process_time() - start)
"""


def measured(width: int, depth: int, samples: int) -> tuple[float, float]:
    """Megabytes above the imports, and seconds of the processor."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        net, data = Path(name) / "net.safetensors", Path(name) / "data.npz"
        scale = (2 / width) ** 0.5
        state = {
            f"{2 * i}.weight": (scale * random.standard_normal((width, width))).astype(np.float32)
            for i in range(depth)
        }
        save_file(state, net)
        np.savez(data, inputs=random.standard_normal((samples, width)).astype(np.float32))
        command = [sys.executable, "-c", RUN, str(net), str(data)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    memory, seconds = map(float, done.stdout.split())
    return memory, seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="an eighth of each width")
    divisor = 8 if parser.parse_args().quick else 1
    print_row("width", "layers", "samples", "memory, MB", "seconds")
    print_row(*["---"] * 5)
    rows = [BASE]
    for which, values in OTHERS.items():
        rows += [(*BASE[:which], value, *BASE[which + 1 :]) for value in values]
    for width, depth, samples in rows:
        memory, seconds = measured(width // divisor, depth, samples)
        cells = f"{width // divisor:,}", f"{depth}", f"{samples:,}"
        print_row(*cells, f"{memory:.0f}", f"{seconds:.1f}")


if __name__ == "__main__":
    main()
