"""A weight matrix becomes its empirical spectral density, and two thin matrices.

Pure numerics: no files, no torch. One decomposition per layer serves the spectrum, the fit and
factors of every rank.
"""

from rmtcli.spectra.factors import Factors, factorize
from rmtcli.spectra.gram import (
    Form,
    Spectrum,
    leading_vectors,
    max_abs,
    row_blocks,
    spectrum,
    tall,
    times,
)

__all__ = [
    "Factors",
    "Form",
    "Spectrum",
    "factorize",
    "leading_vectors",
    "max_abs",
    "row_blocks",
    "spectrum",
    "tall",
    "times",
]
