"""Accuracy before and after healing on all training images, unlabelled: docs/benchmarks-linear.md.

    python -m benchmarks.healing IDX_FOLDER [--seeds 5] [--passes 6] [--networks DIR]

The networks are those of benchmarks.compression, calibrated and healed on all 60,000 training
images without labels. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

import rmtcli
from benchmarks.compression import networks
from benchmarks.networks import accuracy, dense, print_row
from rmtcli.experiments.idx import read_split
from rmtcli.planning import Budget

CASES = (("auto", 5), ("auto", 3), ("narrow", 5))


def main() -> None:
    """Prune, heal and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("idx_folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--passes", type=int, default=6)
    parser.add_argument("--networks", type=Path, help="folder to keep trained networks in")
    given = parser.parse_args()
    print_row("layout", "parameters left", "network", "dense", "unhealed", "healed", "CPU seconds")
    print_row(*["---"] * 7)
    with tempfile.TemporaryDirectory() as name:
        folder = given.networks or Path(name)
        paths = networks(given.idx_folder, folder, given.seeds)
        images = Path(name) / "images.npz"
        np.savez(images, inputs=read_split(given.idx_folder, "train")[0])
        for layout, share in CASES:
            for seed, path in enumerate(paths):
                stats = Path(name) / f"{seed}.safetensors"
                start = time.process_time()
                report = rmtcli.prune(
                    path,
                    budget=Budget(f"{share}%"),
                    layout=layout,
                    calibration=rmtcli.Calibration(images, stats=stats, heal=given.passes),
                    evaluation=rmtcli.Evaluation(folder / "test.npz"),
                    dry_run=True,
                )
                assert report.comparison is not None
                unhealed = report.comparison.unhealed
                before = "undone" if unhealed is None else f"{unhealed.accuracy:.2f}"
                print_row(
                    f"`{layout}`",
                    f"{share} %",
                    f"seed {seed}",
                    f"{dense(report):.2f}",
                    before,
                    f"{accuracy(report):.2f}",
                    f"{time.process_time() - start:.0f}",
                )


if __name__ == "__main__":
    main()
