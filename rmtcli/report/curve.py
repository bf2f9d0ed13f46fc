"""Accuracy against size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rmtcli.evaluation import Comparison
from rmtcli.report.measured import measured


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """One network on the curve.

    Attributes:
        parameters: entries of all its tensors.
        ranks: rank of each pruned layer, by name; a layer that is missing stays dense.
        comparison: its scores beside the dense ones.
        error: standard error of the accuracy lost, in points, by the samples where the two
            networks differ; None where it was not measured.
    """

    parameters: int
    ranks: dict[str, int]
    comparison: Comparison
    error: float | None

    def to_dict(self, dense: int) -> dict[str, Any]:
        """The point as plain values; ``dense`` is the number of the dense network's parameters."""
        return {
            "parameters": self.parameters,
            "ratio": self.parameters / dense,
            "ranks": self.ranks,
            "accuracy": measured(self.comparison) | {"drop_error": self.error},
        }
