"""Factories and scores that tests name on the command line, as users do."""

from __future__ import annotations

import torch
from torch import nn


def residual() -> nn.Module:
    """A network that is not a chain of layers."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1 = nn.Linear(40, 40)
            self.head = nn.Linear(40, 10)

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.head(x + nn.functional.relu(self.fc1(x)))

    return Residual()


instance = residual()


def failing() -> nn.Module:
    """A network whose own code is wrong."""

    class Failing(type(residual())):  # type: ignore[misc]
        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.helper({"x": x})

        def helper(self, x):  # type: ignore[no-untyped-def]
            return x["y"]

    return Failing()


def not_a_module() -> int:
    return 3


def first_weight(model: nn.Module) -> float:
    """A score that can be computed for any network."""
    return float(next(model.parameters()).detach().abs().sum())


def each(model: nn.Module) -> torch.Tensor:
    """One score per sample."""
    return torch.arange(4.0) + first_weight(model)


def table(model: nn.Module) -> torch.Tensor:
    """No score."""
    return torch.zeros(2, 2)


def words(model: nn.Module) -> str:
    return "good"


value = 3


def raises(*_: object) -> None:
    raise KeyError("missing")


def nan(model: nn.Module) -> float:
    return float("nan")


def encoder() -> nn.Module:
    """A network whose modules read their layers' weights instead of calling the layers."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
            self.head = nn.Linear(64, 10)

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.head(self.layer(x.unflatten(1, (-1, 64))).mean(1))

    return Encoder().eval()


def normed() -> nn.Module:
    """A network with a BatchNorm and a PReLU between its hidden layer and the next."""
    return nn.Sequential(
        *(nn.Linear(20, 60), nn.BatchNorm1d(60), nn.PReLU(60), nn.Linear(60, 40)),
        *(nn.GELU(), nn.Linear(40, 4)),
    )
