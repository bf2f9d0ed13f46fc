"""Spectra of weight matrices, and their best low-rank factors.

Pure numerics: no files, no torch. Singular values come from the float64 Gram matrix of the short
side, which is exact far beyond what float32 weights hold, and faster than an SVD. One decomposition
per layer serves the spectrum, the fit and the factors of every rank: Householder's reduction to
tridiagonal form gives all eigenvalues, and eigenvectors are computed only for the values that are
kept. LAPACK is called without Python's lock, so that layers are decomposed in parallel threads.
"""

from rmtcli.spectra.factors import Factors, factorize
from rmtcli.spectra.gram import (
    Form,
    Spectrum,
    leading_vectors,
    mapped,
    max_abs,
    row_blocks,
    scaled_spectrum,
    spectrum,
    tall,
    times,
)
from rmtcli.spectra.largest import largest_eigenvalue
from rmtcli.spectra.pivots import Pivots, pivots

__all__ = [
    "Factors",
    "Form",
    "Pivots",
    "Spectrum",
    "factorize",
    "largest_eigenvalue",
    "leading_vectors",
    "mapped",
    "max_abs",
    "pivots",
    "row_blocks",
    "scaled_spectrum",
    "spectrum",
    "tall",
    "times",
]
