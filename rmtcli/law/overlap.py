"""The overlap of a direction with a subspace, where the two have nothing to do with each other.

A unit vector u that is uniform on the sphere in m dimensions has squared entries that are
Dirichlet(½, …, ½), in any orthonormal basis. Its overlap with k of the basis vectors, the squared
length ‖Xᵀu‖² of its projection, is the sum of k of them, and Beta(k/2, (m − k)/2).
"""

from __future__ import annotations

import numpy as np
import scipy

from rmtcli.arrays import FloatArray


def p_values(overlaps: FloatArray, dimension: int, space: int) -> FloatArray:
    """Return the chance that a random direction overlaps as much with a subspace.

    Args:
        overlaps: shape (j,), squared lengths of projections of unit vectors, in [0, 1].
        dimension: dimension k of the subspace.
        space: dimension m of the space.

    Returns:
        Shape (j,), in [0, 1]; all 1 for an empty subspace, and for the whole space.
    """
    if not 0 < dimension < space:
        return np.ones_like(overlaps)
    rest = np.clip(1 - overlaps, 0.0, 1.0)
    return np.asarray(scipy.special.betainc((space - dimension) / 2, dimension / 2, rest))
