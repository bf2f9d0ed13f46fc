"""Cleaners: from the eigenvalues of a sample moment to estimates of the true ones.

One estimator per file. A cleaner is a frozen dataclass in ``CLEANERS``; it sees the eigenvalues and
the number of independent samples that carry as much information, and never the vectors, which stay.
"""

from rmtcli.calibration.clean import (  # noqa: F401  (importing a module registers its cleaner)
    linear,
    none,
    oas,
)
from rmtcli.calibration.clean.apply import clean_moments
from rmtcli.calibration.clean.base import CLEANERS, Cleaner

__all__ = ["CLEANERS", "Cleaner", "clean_moments"]
