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
