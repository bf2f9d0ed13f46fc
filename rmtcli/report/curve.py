"""The points of a curve of accuracy against size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rmtcli.report.measured import measured

if TYPE_CHECKING:
    from rmtcli.evaluation import Comparison


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """One network on the curve.

    Attributes:
        parameters: its number of parameters.
        bytes: bytes of its tensors.
        ranks: rank of each layer of lower rank, by name; layers that are missing stay dense.
        narrowed: (out, in) of each layer beside a narrower hidden layer, by name.
        comparison: its scores next to those of the dense network.
        error: standard error of the accuracy lost, in points, from the samples on which the two
            networks differ; None if it was not measured.
        undone: the refinements that were undone: ``sequential``, ``heal``.
    """

    parameters: int
    bytes: int
    ranks: dict[str, int]
    narrowed: dict[str, tuple[int, int]]
    comparison: Comparison
    error: float | None
    undone: tuple[str, ...] = ()

    def to_dict(self, dense: int, dense_bytes: int) -> dict[str, Any]:
        """The point as plain values.

        Args:
            dense: number of parameters of the dense network.
            dense_bytes: bytes of its tensors.
        """
        return {
            "parameters": self.parameters,
            "ratio": self.parameters / dense,
            "bytes": self.bytes,
            "bytes_ratio": self.bytes / dense_bytes,
            "ranks": self.ranks,
            "narrowed": {name: list(shape) for name, shape in self.narrowed.items()},
            "undone": list(self.undone),
            "accuracy": measured(self.comparison) | {"drop_error": self.error},
        }
