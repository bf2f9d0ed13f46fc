"""The measure of errors of a layer's outputs, and roots and eigenvectors of moments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.calibration.moments import Moments
from rmtcli.spectra.lapack import call

#: Gives the eigenvalues of a symmetric matrix, ascending, and its eigenvectors, as
#: ``numpy.linalg.eigh`` does: most of the work of a decomposition, which an accelerator may take.
Eigh = Callable[[FloatArray], tuple[FloatArray, FloatArray]]

#: Eigenvalues of the gradients' moment are raised to this share of the largest. The inverse of its
#: root then multiplies rounding errors by a hundred at most, and directions that no gradient
#: reached are not free to change without limit.
GRADIENT_FLOOR = 1e-4
#: Steps of the power method, after which the largest eigenvalue is known to a few percent.
_STEPS = 20


@dataclass(frozen=True, eq=False)
class Outputs:
    """The measure of an error e of one layer's outputs: weight · eᵀG e, or weight · ‖e‖²."""

    weight: float
    moment: FloatArray | None
    eigh: Eigh = np.linalg.eigh

    @staticmethod
    def of(
        moments: Moments, weight: float, *, gradients: bool, eigh: Eigh = np.linalg.eigh
    ) -> Outputs:
        """Return the measure of a layer that counts ``weight`` times as much as its first sibling.

        Raises:
            ValueError: gradients are to be used and were not collected.
        """
        if not gradients:
            return Outputs(weight, None)
        if moments.gradient is None:
            raise ValueError("no output gradients were collected")
        return Outputs(weight, moments.gradient, eigh)

    @cached_property
    def root(self) -> FloatArray | None:
        """G^½, with the eigenvalues of G raised."""
        if self.moment is None:
            return None
        return root_of(self.moment, floor=GRADIENT_FLOOR, eigh=self.eigh)

    def apply(self, rows: FloatArray) -> FloatArray:
        """Return errors, shape (out, any), multiplied by the root of the measure."""
        measured = rows if self.root is None else self.root @ rows
        return np.asarray(self.weight**0.5 * measured)

    def undo(self, rows: FloatArray) -> FloatArray:
        """Return rows, shape (out, any), divided by the root: the inverse of :meth:`apply`."""
        errors = rows if self.root is None else np.linalg.solve(self.root, rows)
        return np.asarray(errors / self.weight**0.5)

    def weigh(self, rows: FloatArray) -> FloatArray:
        """Return rows, shape (out, any), multiplied by the measure: :meth:`apply` twice."""
        raised = None if self.moment is None else _raised(self.moment, GRADIENT_FLOOR, self.eigh)
        return np.asarray(self.weight * (rows if raised is None else raised @ rows))


def second_of(moments: Moments, bias: bool) -> FloatArray:
    """The moment of the inputs by which errors are measured; centred if a bias takes the mean."""
    return moments.covariance if bias else moments.second


def eigenvectors(gram: FloatArray, eigh: Eigh = np.linalg.eigh) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues of a Gram matrix, descending and without those that are rounding, and vectors."""
    values, vectors = eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    rounding = len(values) * np.finfo(np.float64).eps * max(float(values[0]), 0.0)
    return np.where(values > rounding, values, 0.0), vectors


def root_of(moment: FloatArray, *, floor: float, eigh: Eigh = np.linalg.eigh) -> FloatArray:
    """Return the symmetric square root; eigenvalues are raised to ``floor`` times the largest."""
    values, vectors = eigh(moment)
    least = max(floor * float(values[-1]), np.finfo(np.float64).tiny if floor else 0.0)
    return np.asarray((vectors * np.sqrt(np.maximum(values, least))) @ vectors.T)


def _raised(moment: FloatArray, floor: float, eigh: Eigh) -> FloatArray:
    """Return a moment with eigenvalues raised to ``floor`` times the largest.

    Where none is smaller, which a Cholesky factorization shows, no eigenvectors are needed.
    """
    vector = np.full(len(moment), len(moment) ** -0.5)
    for _ in range(_STEPS):
        vector = moment @ vector
        norm = float(np.linalg.norm(vector))
        if not norm:
            break
        vector /= norm
    least = floor * float(vector @ moment @ vector)
    lower = moment.copy()  # one matrix, in which LAPACK works
    lower[np.diag_indices_from(lower)] -= least
    try:
        call("dpotrf", "L", len(lower), lower, len(lower))
    except np.linalg.LinAlgError:
        values, vectors = eigh(moment)
        least = max(floor * float(values[-1]), np.finfo(np.float64).tiny)
        return np.asarray((vectors * np.maximum(values, least)) @ vectors.T)
    return moment
