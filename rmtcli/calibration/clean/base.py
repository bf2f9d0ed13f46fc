"""The interface of cleaners, and their registry."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.registry import Registry


class Cleaner(Protocol):
    """An estimator of the eigenvalues of a moment: a frozen dataclass in ``CLEANERS``.

    One that comes from a publication cites it in a class variable ``reference``.
    """

    def clean(self, values: FloatArray, samples: float) -> FloatArray:
        """Return better estimates of the eigenvalues.

        Args:
            values: shape (p,), the eigenvalues of the sample moment, ascending, not negative.
            samples: number of independent samples that carry as much information.

        Returns:
            Shape (p,), ascending, not negative, with the sum of ``values``.
        """
        ...


CLEANERS: Registry[Cleaner] = Registry("cleaner", "rmtcli.cleaners")


def towards_mean(values: FloatArray, share: float) -> FloatArray:
    """Move eigenvalues a share of the way, at most 1, towards their mean."""
    share = min(share, 1.0)
    return np.asarray((1 - share) * values + share * values.mean())


class Shrinkage:
    """A cleaner that moves all eigenvalues one share of the way towards their mean.

    The share needs no more than two sums over the eigenvalues, which are the moment's trace and its
    squared norm, so that a moment is cleaned without being decomposed.
    """

    def share(self, size: int, total: float, squares: float, samples: float) -> float:
        """Return the share, which counts as 1 if it is larger.

        Args:
            size: number of eigenvalues.
            total: their sum.
            squares: the sum of their squares.
            samples: number of independent samples that carry as much information.
        """
        raise NotImplementedError

    def clean(self, values: FloatArray, samples: float) -> FloatArray:
        """Return the eigenvalues moved by the share."""
        sums = float(values.sum()), float(np.sum(values**2))
        return towards_mean(values, self.share(len(values), *sums, samples))

    def shrink(self, moment: FloatArray, samples: float) -> FloatArray:
        """Return a moment with its eigenvalues moved by the share."""
        size, total = len(moment), float(np.trace(moment))
        share = min(self.share(size, total, float(np.vdot(moment, moment)), samples), 1.0)
        shrunk = (1 - share) * moment
        shrunk[np.diag_indices(size)] += share * total / size
        return np.asarray(shrunk)
