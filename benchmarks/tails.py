"""Tail exponents compared with ``powerlaw`` and WeightWatcher: docs/benchmarks-spectra.md.

    python -m benchmarks.tails [CHECKPOINT ...]

Prints alpha by all three for each layer, and the largest relative difference, as Markdown.
WeightWatcher gets the layers as torch modules and computes its own eigenvalues. Without a
checkpoint, the sample models are used.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rmtcli.checkpoint import open_checkpoint
from rmtcli.law.power_law import clauset
from rmtcli.layers import Layer, find_layers
from rmtcli.spectra import spectrum

SAMPLES = ("mnist_mlp.safetensors", "mnist_deep.pt", "planted.safetensors")


def weightwatcher(layers: Sequence[Layer]) -> list[float]:
    """WeightWatcher's alpha of each layer."""
    from weightwatcher import WeightWatcher

    modules = []
    for layer in layers:
        weight = torch.from_numpy(np.array(layer.load(), dtype=np.float32))
        module = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        module.weight.data = weight
        modules.append(module)
    logging.disable(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        details = WeightWatcher(model=torch.nn.Sequential(*modules)).analyze(min_evals=10)
    assert len(details) == len(modules)
    return [float(alpha) for alpha in details.alpha]


def powerlaw(values: np.ndarray) -> float:
    """Alpha by ``powerlaw``; version 2 excludes alpha above 3 unless it is given a range."""
    from powerlaw import Fit

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        free = {"alpha": (1.0, np.inf)}
        fit = Fit(values, verbose=False, parameter_ranges=free)
    return float(fit.power_law.alpha)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoints", nargs="*", type=Path)
    folder = Path(__file__).parents[1] / "sample_models"
    files = parser.parse_args().checkpoints or [folder / name for name in SAMPLES]
    print("| layer | shape | rmtcli | powerlaw | WeightWatcher | largest difference |")
    print("| --- | --- | --- | --- | --- | --- |")
    for file in files:
        layers = [item for item in find_layers(open_checkpoint(file)) if isinstance(item, Layer)]
        layers = [layer for layer in layers if not layer.head]
        for layer, theirs in zip(layers, weightwatcher(layers), strict=True):
            values = spectrum(layer.load()).eigenvalues
            law = clauset(values)
            assert law is not None
            alphas = np.array([law.alpha, powerlaw(values[values > 0]), theirs])
            cells = [f"{alpha:.4f}" for alpha in alphas]
            apart = np.abs(alphas / law.alpha - 1).max()
            shape = f"{layer.shape[0]}×{layer.shape[1]}"
            row = [f"{file.name}, {layer.name}", shape, *cells, f"{100 * apart:.4f} %"]
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
