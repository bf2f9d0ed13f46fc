"""First and second moments of a layer's inputs or outputs, and of its output gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.calibration.on_demand import OnDemand
from rmtcli.calibration.spread import joined
from rmtcli.keep import Untouched

T = TypeVar("T")
#: One batch in so many is kept apart, to measure losses on samples that the maps do not know.
FOLD = 4


class ByLayer(Mapping[str, T]):
    """Results of a calibration by layer name, and why other layers have none.

    Args:
        results: the results, which may be read from files each time that they are asked for.
        missing: the reasons.
    """

    def __init__(self, results: Mapping[str, T], missing: Mapping[str, Untouched]) -> None:
        self.results, self.missing = results, dict(missing)

    def __getitem__(self, name: str) -> T:
        return self.results[name]

    def __contains__(self, name: object) -> bool:
        return name in self.results

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def only(self, name: str) -> ByLayer[T]:
        """The result of one layer alone, if it has one; it is read where it is used."""
        if isinstance(self.results, OnDemand):
            makers = {x: self.results.makers[x] for x in (name,) if x in self.results}
            return ByLayer(OnDemand(makers), {})
        return ByLayer({x: self.results[x] for x in (name,) if x in self.results}, {})


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Moments of one layer y = Wx + b over the calibration samples.

    Those of a convolution are moments of z = Wx, where x is a patch: a patch has in·k·k values, and
    the low-rank maps of W need no more than E[z zᵀ] = W E[x xᵀ] Wᵀ, which is far smaller.

    Attributes:
        rows: number of inputs; a layer that runs at every position, or twice, has several per
            sample.
        samples: number of samples that went through the network.
        mean: shape (in,), E[x]; or shape (out,), E[z].
        second: shape (in, in), E[x xᵀ], not centred; or shape (out, out), E[z zᵀ].
        gradient: shape (out, out), E[g gᵀ] of the output gradients g, or None.
        of_outputs: whether ``mean`` and ``second`` are those of z.
        independent: number of independent samples that the covariance is worth; None if unknown.
        independent_gradients: number of them that ``gradient`` is worth; None if unknown.
        fold: the moments of the samples that were kept apart, which are among the others; None if
            none were kept.
    """

    rows: int
    samples: int
    mean: FloatArray
    second: FloatArray
    gradient: FloatArray | None
    of_outputs: bool = False
    independent: float | None = None
    independent_gradients: float | None = None
    fold: Moments | None = None

    @property
    def without_fold(self) -> Moments | None:
        """The moments of the samples that were not kept apart; None if none or all were."""
        if self.fold is None or self.fold.rows >= self.rows:
            return None
        share = self.fold.rows / self.rows

        def rest(all_samples: FloatArray, apart: FloatArray) -> FloatArray:
            return np.asarray((all_samples - share * apart) / (1 - share))

        def worth(independent: float | None) -> float | None:
            return None if independent is None else (1 - share) * independent

        gradient = None
        if self.gradient is not None and self.fold.gradient is not None:
            gradient = rest(self.gradient, self.fold.gradient)
        return replace(
            self,
            rows=self.rows - self.fold.rows,
            samples=round((1 - share) * self.samples),
            mean=rest(self.mean, self.fold.mean),
            second=rest(self.second, self.fold.second),
            gradient=gradient,
            independent=worth(self.independent),
            independent_gradients=worth(self.independent_gradients),
            fold=None,
        )

    @property
    def covariance(self) -> FloatArray:
        """The second moment of what is left without the mean, in the shape of ``second``."""
        return self.second - np.outer(self.mean, self.mean)

    @property
    def shapes(self) -> tuple[tuple[int, ...] | None, ...]:
        """Shapes of ``mean``, ``second`` and ``gradient``; None for a missing gradient."""
        arrays = (self.mean, self.second, self.gradient)
        return tuple(None if array is None else array.shape for array in arrays)

    @property
    def uses(self) -> float:
        """Number of times that a sample runs through the layer, on average."""
        return self.rows / self.samples


def merge(parts: Sequence[Moments]) -> Moments:
    """Merge the moments of modules that share one weight, each with inputs of its own.

    A single part is returned as it is, so that layers that read the same tensor go on sharing its
    arrays.

    Args:
        parts: moments of the modules; at least one.

    Returns:
        The moments over all inputs; without gradients where a part has none.
    """
    if len(parts) == 1:
        return parts[0]
    rows = sum(part.rows for part in parts)
    shares = [part.rows / rows for part in parts]

    def mean(values: Sequence[FloatArray]) -> FloatArray:
        """Return the mean, weighted by the number of inputs."""
        return np.asarray(sum(s * v for s, v in zip(shares, values, strict=True)))

    gradients = [part.gradient for part in parts if part.gradient is not None]
    return Moments(
        rows,
        parts[0].samples,
        mean([part.mean for part in parts]),
        mean([part.second for part in parts]),
        mean(gradients) if len(gradients) == len(parts) else None,
        parts[0].of_outputs,
        joined(shares, [part.independent for part in parts]),
        joined(shares, [part.independent_gradients for part in parts]),
    )
