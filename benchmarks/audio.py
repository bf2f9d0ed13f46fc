"""Convolutions and recurrent layers, with and without data: docs/benchmarks-linear.md.

    python -m benchmarks.audio [--seeds 3] [--heal N] [--full]

Two networks for sound, as they are built for real: a pitch tracker of six convolutions and a
classifier with 360 outputs (CREPE, Kim et al., 2018, in its smallest size), and a speaker encoder
of three LSTM layers and a linear one (GE2E, Wan et al., 2018). The sounds are made here. Each
network is pruned as it is initialised, and again after a short training. ``--full`` prunes the
largest pitch tracker, as it is initialised; ``--heal`` heals the trained one of the smallest size.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import rmtcli
from benchmarks.networks import print_row, spread
from rmtcli.planning import Budget

#: Samples to train on, of which the first are calibrated on, and to measure on.
TRAINING, CALIBRATION, TEST = 2400, 300, 300
SHARES = (50, 30)


class Pitch(nn.Module):
    """Six convolutions over 1,024 samples, and scores of 360 pitches."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        filters = [capacity * n for n in (32, 4, 4, 4, 8, 16)]
        self.convolutions, width = nn.ModuleList(), 1
        for i, outputs in enumerate(filters):
            kernel, stride = (512, 4) if i == 0 else (64, 1)
            ends = (254, 254) if i == 0 else (31, 32)
            block = [
                nn.ConstantPad1d(ends, 0.0),
                nn.Conv1d(width, outputs, kernel, stride),
                nn.ReLU(inplace=True),
                nn.BatchNorm1d(outputs),
                nn.MaxPool1d(2),
            ]
            self.convolutions.append(nn.Sequential(*block))
            width = outputs
        self.classifier = nn.Linear(4 * width, 360)

    def forward(self, x: Tensor) -> Tensor:
        """Map samples of shape (…, 1024) to scores of shape (…, 360)."""
        x = x[:, None]
        for block in self.convolutions:
            x = block(x)
        scores: Tensor = self.classifier(x.transpose(1, 2).flatten(1))
        return scores


class Speaker(nn.Module):
    """Three LSTM layers over frames of 40 bands, and an embedding of unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, x: Tensor) -> Tensor:
        """Map frames of shape (…, frames, 40) to embeddings of shape (…, 256)."""
        _, (hidden, _) = self.lstm(x)
        embedding = torch.relu(self.linear(hidden[-1]))
        return nn.functional.normalize(embedding + 1e-6, dim=1)


def pitch() -> nn.Module:
    """The smallest pitch tracker, as ``--model`` names it."""
    return Pitch(4)


def pitch_full() -> nn.Module:
    """The largest pitch tracker, with a classifier of 2048 × 360."""
    return Pitch(32)


def speaker() -> nn.Module:
    """The speaker encoder."""
    return Speaker()


def tones(seed: int) -> tuple[Tensor, Tensor]:
    """Tones of 60 pitches with overtones and noise, and the numbers of the pitches."""
    rng = np.random.default_rng(seed)
    targets = 6 * rng.integers(0, 60, TRAINING + TEST)
    base = 50.0 * 2 ** (targets / 60)  # 20 cents a number
    times = np.arange(1024) / 16_000
    x = 0.4 * rng.standard_normal((len(targets), 1024))
    for overtone in range(1, 6):
        phase = rng.uniform(0, 2 * np.pi, len(targets))
        size = rng.uniform(0.3, 1, len(targets)) / overtone
        x += size[:, None] * np.sin(2 * np.pi * overtone * base[:, None] * times + phase[:, None])
    x /= x.std(1, keepdims=True)
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(targets)


def voices(seed: int) -> tuple[Tensor, Tensor]:
    """Frames of 40 voices that differ in their bands and in how these change, and their numbers."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 40, TRAINING + TEST)
    bands, speed = rng.standard_normal((40, 40)), rng.uniform(0.2, 1.5, (40, 1))
    steps = np.arange(24)[None, :] * speed[targets] + rng.uniform(0, 6, (len(targets), 1))
    x = bands[targets][:, None] * (1 + np.sin(steps)[..., None])
    x = x + 1.5 * rng.standard_normal((len(targets), 24, 40))
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(targets)


@dataclass(frozen=True, slots=True)
class Case:
    """A network, its data, and how it is used."""

    name: str
    make: Callable[[], nn.Module]
    data: Callable[[int], tuple[Tensor, Tensor]]
    task: str
    selection: rmtcli.Selection
    epochs: int  # 0 for a network that is only pruned as it is initialised


#: Everything, the first convolution and the output head among it.
CONVOLUTIONS = rmtcli.Selection(
    include=["*", "convolutions.0.1.weight", "classifier.weight"], convolutions=True
)
CASES = (
    Case("pitch", pitch, tones, "classification", CONVOLUTIONS, 5),
    Case("pitch_full", pitch_full, tones, "classification", CONVOLUTIONS, 0),
    Case("speaker", speaker, voices, "embedding", rmtcli.Selection(recurrent=True), 5),
)


def trained(case: Case, model: nn.Module, x: Tensor, targets: Tensor, seed: int) -> None:
    """Train on the classes; the speaker encoder by the cosines to a vector of each voice."""
    torch.manual_seed(seed)
    voices = nn.Parameter(torch.randn(40, 256)) if case.task == "embedding" else None
    parameters = [*model.parameters(), *([] if voices is None else [voices])]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    model.train()
    for _ in range(case.epochs):
        for rows in torch.randperm(TRAINING).split(48):
            scores = model(x[rows])
            if voices is not None:
                scores = 10 * scores @ nn.functional.normalize(voices, dim=1).T
            optimizer.zero_grad()
            nn.functional.cross_entropy(scores, targets[rows]).backward()
            optimizer.step()
    model.eval()


def measured(case: Case, dense: Tensor, outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Cosine to the dense network's rows, less their mean, and the share of samples told right."""
    mean = dense.mean(0)
    cosine = float(nn.functional.cosine_similarity(dense - mean, outputs - mean).mean())
    if case.task == "embedding":
        # Each voice is where the dense network puts its first half; the other half is assigned.
        half = len(targets) // 2
        known = dense[:half] @ outputs[half:].T
        right = targets[:half][known.argmax(0)] == targets[half:]
        return {"cosine": cosine, "right": 100 * float(right.float().mean())}
    right = outputs.argmax(1) == targets
    return {"cosine": cosine, "right": 100 * float(right.float().mean())}


def run(
    case: Case, state: str, seed: int, methods: dict[str, int | None], folder: Path
) -> list[tuple[list[str], dict[str, float]]]:
    """Prune one network in every way: the first cells of each row, and its measures."""
    x, targets = case.data(seed)
    torch.manual_seed(seed)
    model = case.make().eval()
    if state == "trained":
        trained(case, model, x[:TRAINING], targets[:TRAINING], seed)
    path, data = folder / "dense.pt", folder / "calibration.npz"
    torch.save(model.state_dict(), path)
    np.savez(data, inputs=x[:CALIBRATION].numpy())
    test, known = x[TRAINING:], targets[TRAINING:]
    dense = model.requires_grad_(False)(test)
    rows = [([case.name, state, "dense", ""], measured(case, dense, dense, known))]
    sizes = [p.numel() for p in model.state_dict().values() if p.is_floating_point()]
    rows[0][1].update(parameters=sum(sizes), bytes=path.stat().st_size)
    for share in SHARES:
        for name, heal in methods.items():
            small, evaluation, calibration = folder / "small.pt", None, None
            if heal is not None:
                evaluation = rmtcli.Evaluation(
                    model=f"benchmarks.audio:{case.name}", task=case.task
                )
                calibration = rmtcli.Calibration(data, batch=64, heal=heal)
            report = rmtcli.prune(
                path,
                small,
                budget=Budget(f"{share}%"),
                selection=case.selection,
                evaluation=evaluation,
                calibration=calibration,
                force=True,
            )
            outputs = rmtcli.load(case.make(), small).eval().requires_grad_(False)(test)
            result = measured(case, dense, outputs, known)
            assert report.output is not None
            result |= {"parameters": report.output.parameters, "bytes": small.stat().st_size}
            rows.append(([case.name, state, name, f"{share} %"], result))
    return rows


def main() -> None:
    """Make the networks, prune them and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--heal", type=int, default=0)
    given = parser.parse_args()
    methods: dict[str, int | None] = {"no data": None, "calibrated": 0}
    if given.heal:
        methods = {f"calibrated, `--heal {given.heal}`": given.heal}
    print_row("network", "weights", "method", "budget", "parameters", "MB", "cosine", "right, %")
    print_row(*["---"] * 8)
    for case in CASES:
        if given.full == (case.epochs > 0) or (given.heal and case.name != "pitch"):
            continue
        states = ("untrained", "trained") if case.epochs else ("untrained",)
        for state in ("trained",) if given.heal else states:
            with tempfile.TemporaryDirectory() as folder:
                runs = [
                    run(case, state, seed, methods, Path(folder)) for seed in range(given.seeds)
                ]
            for row in zip(*runs, strict=True):
                cells, values = row[0][0], [each for _, each in row]
                columns = {key: [value[key] for value in values] for key in values[0]}
                size = f"{np.mean(columns['parameters']):,.0f}"
                megabytes = f"{np.mean(columns['bytes']) / 1e6:.2f}"
                right = spread(columns["right"]) if state == "trained" else ""
                cosine = f"{np.mean(columns['cosine']):.3f}"
                print_row(*cells, size, megabytes, cosine, right)


if __name__ == "__main__":
    main()
