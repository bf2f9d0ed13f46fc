"""Clean the moments of all layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.calibration.clean.base import Cleaner, Shrinkage
from rmtcli.calibration.clean.none import Raw
from rmtcli.calibration.moments import Moments


def clean_moments(moments: Mapping[str, Moments], cleaner: Cleaner) -> dict[str, Moments]:
    """Return the moments of all layers with cleaned eigenvalues and the same vectors.

    Of inputs, the covariance is cleaned, and the mean stays. Moments of an unknown number of
    independent samples are returned as they are. Layers that share an array go on sharing one.
    """
    if isinstance(cleaner, Raw):
        return dict(moments)
    made: dict[int, FloatArray] = {}

    def once(array: FloatArray, make: Callable[[], FloatArray]) -> FloatArray:
        if id(array) not in made:
            made[id(array)] = make()
        return made[id(array)]

    def inputs(m: Moments, samples: float) -> FloatArray:
        return _cleaned(m.covariance, cleaner, samples) + np.outer(m.mean, m.mean)

    results = {}
    for name, m in moments.items():
        second, gradient = m.second, m.gradient
        if (n := m.independent) is not None:
            second = once(second, lambda m=m, n=n: inputs(m, n))  # type: ignore[misc]
        if gradient is not None and (n := m.independent_gradients) is not None:
            gradient = once(gradient, lambda g=gradient, n=n: _cleaned(g, cleaner, n))  # type: ignore[misc]
        results[name] = replace(m, second=second, gradient=gradient)
    return results


def _cleaned(moment: FloatArray, cleaner: Cleaner, samples: float) -> FloatArray:
    if isinstance(cleaner, Shrinkage):
        return cleaner.shrink(moment, samples)
    values, vectors = np.linalg.eigh(moment)
    new = cleaner.clean(np.maximum(values, 0.0), samples)
    return np.asarray((vectors * new) @ vectors.T)
