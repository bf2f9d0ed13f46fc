"""Train and write the sample models.

    python sample_models/make.py IDX_FOLDER [--out sample_models]

IDX_FOLDER holds the four MNIST files as published (``train-images-idx3-ubyte.gz`` and so on).
Seeds are fixed. Floating-point sums differ between processors and numbers of threads, so a run on
another machine gives networks of equal quality, not equal bytes: README.md lists the hashes of the
committed files.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file
from torch import nn

from rmtcli.experiments.idx import read_split
from rmtcli.experiments.networks import mlp

CALIBRATION_IMAGES = 4096
BATCH = 128

#: name -> (out, in, rank, sigma) of each layer of the planted model: noise plus ``rank`` spikes.
PLANTED = {
    "blocks.0": (200, 800, 4, 0.02),
    "blocks.1": (600, 300, 6, 0.05),
    "blocks.2": (256, 256, 3, 1.0),
    "blocks.3": (96, 960, 2, 0.01),
}


def train(
    model: nn.Module, images: np.ndarray, labels: np.ndarray, *, lr: float, epochs: int
) -> torch.optim.Optimizer:
    """Train by SGD with momentum 0.9 on inputs in [0, 1]; torch's seed determines the batches."""
    inputs, targets = torch.from_numpy(images).float() / 255, torch.from_numpy(labels).long()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
    return optimizer


@torch.no_grad()
def accuracy(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 accuracy in percent."""
    predicted = model(torch.from_numpy(images).float() / 255).argmax(1).numpy()
    return 100 * float((predicted == labels).mean())


def planted_layer(
    rng: np.random.Generator, out: int, inputs: int, rank: int, sigma: float
) -> np.ndarray:
    """Gaussian noise of standard deviation ``sigma`` plus ``rank`` random directions.

    Their strengths are spaced evenly between 2 and 6 times the detection limit
    theta = sigma (n p)^(1/4) (Benaych-Georges and Nadakuditi, 2012).
    """
    left = np.linalg.qr(rng.standard_normal((out, rank)))[0]
    right = np.linalg.qr(rng.standard_normal((inputs, rank)))[0]
    strengths = np.linspace(6, 2, rank) * sigma * (out * inputs) ** 0.25
    noise = sigma * rng.standard_normal((out, inputs))
    return (noise + left * strengths @ right.T).astype(np.float32)


def write_planted(path: Path, seed: int) -> None:
    """Write a checkpoint of known noise and ranks, which its metadata records."""
    rng = np.random.default_rng(seed)
    tensors, truth = {}, {}
    for name, (out, inputs, rank, sigma) in PLANTED.items():
        tensors[f"{name}.weight"] = planted_layer(rng, out, inputs, rank, sigma)
        tensors[f"{name}.bias"] = np.zeros(out, np.float32)
        truth[f"{name}.weight"] = {"rank": rank, "sigma": sigma}
    tensors["head.weight"] = rng.standard_normal((10, 96)).astype(np.float32)
    save_numpy(tensors, path, metadata={"truth": json.dumps(truth)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("idx_folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    out: Path = arguments.out
    images, labels = read_split(arguments.idx_folder, "train")
    test_images, test_labels = read_split(arguments.idx_folder, "t10k")

    sample = np.random.default_rng(0).permutation(len(images))[:CALIBRATION_IMAGES]
    np.savez_compressed(
        out / "mnist.npz",
        inputs=test_images,
        targets=test_labels,
        train_inputs=images[sample],
        train_targets=labels[sample],
    )

    small = mlp([784, 1000, 10], seed=0)
    train(small, images, labels, lr=0.08, epochs=10)
    save_file(small.state_dict(), out / "mnist_mlp.safetensors", metadata={"format": "pt"})
    print(f"mnist_mlp: {accuracy(small, test_images, test_labels):.2f} % on the test images")

    deep = mlp([784, 512, 512, 512, 256, 10], seed=0)
    optimizer = train(deep, images, labels, lr=0.01, epochs=8)
    # The momentum buffers would double the file, so only the optimizer's settings are kept.
    settings = {**optimizer.state_dict(), "state": {}}
    torch.save(
        {"epoch": 8, "model_state_dict": deep.state_dict(), "optimizer_state_dict": settings},
        out / "mnist_deep.pt",
    )
    print(f"mnist_deep: {accuracy(deep, test_images, test_labels):.2f} % on the test images")

    write_planted(out / "planted.safetensors", seed=0)


if __name__ == "__main__":
    main()
