"""Train and write the network of the tests, which costs a tenth of the sample models.

    python -m tests.samples.make IDX_FOLDER

Its inputs are means of 2 × 2 pixels of MNIST.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rmtcli.experiments.idx import read_split
from rmtcli.experiments.networks import mlp
from sample_models.make import train

FOLDER = Path(__file__).parent
WIDTHS = [196, 192, 192, 192, 96, 10]
#: Images to calibrate on, and to score.
TRAINING, TEST = 2048, 4000


def halved(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of 2 × 2 pixels, shape (samples, 196)."""
    blocks = images.reshape(-1, 14, 2, 14, 2).mean((2, 4)).round()
    return blocks.astype(np.uint8).reshape(-1, 196)


def main() -> None:
    """Train the network and write it with its data."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("idx_folder", type=Path)
    folder = parser.parse_args().idx_folder
    (images, labels), (test, targets) = (read_split(folder, part) for part in ("train", "t10k"))
    images, test = halved(images), halved(test)
    rows = np.random.default_rng(0).permutation(len(images))[:TRAINING]
    np.savez_compressed(
        FOLDER / "digits.npz",
        inputs=test[:TEST],
        targets=targets[:TEST],
        train_inputs=images[rows],
        train_targets=labels[rows],
    )
    network = mlp(WIDTHS, seed=0)
    train(network, images, labels, lr=0.02, epochs=8)
    torch.save({"epoch": 8, "model_state_dict": network.state_dict()}, FOLDER / "digits.pt")


if __name__ == "__main__":
    main()
