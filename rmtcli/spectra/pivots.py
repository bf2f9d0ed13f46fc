"""A low-rank product without redundant numbers: some of its rows, and the others from these."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Pivots:
    """A product of rank r, as r of its rows and the coefficients of all rows in these.

    Attributes:
        rows: shape (r,), indices of the pivot rows.
        core: shape (r, in), the pivot rows of the product.
        coefficients: shape (out, r): the product is ``coefficients @ core``. Pivot rows have the
            rows of the identity matrix.
    """

    rows: NDArray[np.int64]
    core: FloatArray
    coefficients: FloatArray


def pivots(left: FloatArray, right: FloatArray) -> Pivots:
    """Write a product of factors as some of its rows and linear combinations of them.

    Factors of rank r hold r² numbers that say nothing, because left · M⁻¹ and M · right have the
    same product. Here the r pivot rows of ``left`` become the identity, so that
    r(out + in) − r² numbers are left (Zhao et al., PIFA, 2025, arXiv 2501.19090). The pivots are
    chosen by QR with column pivoting of an orthonormal basis of the columns of ``left`` (Businger
    and Golub, 1965), which keeps the coefficients near 1 at most, and rounding errors small; the
    choice does not depend on the scales of the columns, and also exists where they are dependent.

    Args:
        left: shape (out, r), r ≤ out.
        right: shape (r, in).

    Raises:
        ValueError: ``left`` has fewer rows than columns.
    """
    outputs, rank = left.shape
    if outputs < rank:
        raise ValueError(f"{outputs} rows cannot hold {rank} pivots")
    basis = np.linalg.qr(left)[0]
    _, order = scipy.linalg.qr(basis.T, mode="r", pivoting=True)
    rows = np.sort(order[:rank]).astype(np.int64)
    coefficients = np.linalg.solve(basis[rows].T, basis.T).T
    coefficients[rows] = np.eye(rank)
    return Pivots(rows, left[rows] @ right, coefficients)
