"""Fits of trained layers, and what `auto` costs: a table of docs/theory.md.

    python -m benchmarks.verdicts [CHECKPOINT …]

Trains eight networks on the 4,096 training images beside the sample models, for about a minute
each. Prints Markdown: each hidden layer's distance, p-value and verdict; for each network the
accuracy before and after ``auto``, and how far noise moves its outputs. Of checkpoints that are
named, only the layers are printed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import rmtcli
from benchmarks.networks import print_row
from rmtcli.checkpoint import open_checkpoint
from rmtcli.evaluation.network import build
from rmtcli.experiments.networks import mlp
from rmtcli.report.base import Report
from rmtcli.running.trial import Trial

ROOT = Path(__file__).parents[1]
DATA = ROOT / "sample_models" / "mnist.npz"
#: Widths, optimizer, learning rate, epochs.
CHAINS = [
    ([784, 512, 10], "Adam", 1e-3, 5),
    ([784, 512, 10], "Adam", 1e-3, 40),
    ([784, 512, 10], "AdamW", 1e-3, 20),
    ([784, 2048, 10], "Adam", 1e-3, 6),
    ([784, 1024, 256, 10], "SGD", 0.1, 20),
    ([784, 1024, 256, 10], "Adam", 3e-3, 10),
    ([784, 512, 512, 10], "Adam", 1e-3, 10),
    ([784, 512, 512, 10], "SGD", 0.1, 20),
]


def fit(
    model: nn.Module, inputs: Tensor, targets: Tensor, name: str, lr: float, epochs: int
) -> None:
    """Train on batches of 64."""
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=lr)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            outputs = model(inputs[rows]).flatten(0, -2)
            torch.autograd.backward(nn.functional.cross_entropy(outputs, targets[rows].flatten()))
            optimizer.step()


def show(name: str, report: Report, cost: str = "") -> None:
    """Print one row per layer that is not an output head."""
    for plan in report.layers:
        if not plan.layer.head and plan.fit.p_value is not None:
            shape, verdict = "×".join(map(str, plan.layer.shape)), plan.fit.verdict.name.lower()
            values = f"{plan.fit.ks_distance:.4f}", f"{plan.fit.p_value:.0e}"
            print_row(name, f"{plan.layer.name} {shape}", *values, verdict.replace("_", " "), cost)


def main() -> None:
    """Train the networks and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoints", nargs="*", type=Path)
    given = parser.parse_args()
    print_row("network", "layer", "distance", "p-value", "verdict", "accuracy by `auto`")
    print_row(*["---"] * 6)
    for path in given.checkpoints:
        show(path.name, rmtcli.analyze(path))
    arrays = np.load(DATA)
    images = torch.from_numpy(arrays["train_inputs"]).float().flatten(1) / 255
    labels = torch.from_numpy(arrays["train_targets"]).long()
    with tempfile.TemporaryDirectory() as folder:
        file, small = Path(folder) / "network.safetensors", Path(folder) / "small.safetensors"
        for sizes, name, lr, epochs in CHAINS:
            torch.manual_seed(0)
            model = mlp(sizes, 0)
            fit(model, images, labels, name, lr, epochs)
            save_file(model.state_dict(), file)
            report = rmtcli.prune(file, small, force=True, evaluation=rmtcli.Evaluation(DATA))
            scores = report.comparison
            assert scores is not None
            assert scores.before is not None
            harness = rmtcli.Evaluation().resolve(open_checkpoint(file))
            cost = f"{scores.before.accuracy:.2f} → {scores.after.accuracy:.2f}"
            if report.pruned:
                moved = Trial(harness).move(build(harness, open_checkpoint(small)))
                cost += f"; noise moves outputs by {moved:.2f}"
            words = f"{'-'.join(map(str, sizes))}, {name} {lr:g}, {epochs} epochs"
            show(words, report, cost)


if __name__ == "__main__":
    main()
