"""The seam of all keep rules."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from rmtcli.edges import EdgeFit, Verdict
from rmtcli.registry import Registry
from rmtcli.spectra import Spectrum


class Untouched(Enum):
    """Why a layer stays as it is; the value is the sentence a user reads."""

    HEAD = "output head"
    NOT_SMALLER = "factors of this rank would not be smaller"
    FULL_RANK = "every direction is kept"
    NO_RANK = "the rule keeps nothing of it: that would remove the layer"
    NO_SPIKES = "nothing stands above the edge: there is no signal to keep"
    BUDGET = "dense within the budget"
    GUARD = "nothing can be removed within the limit"
    PLAN = "the plan leaves it as it is"
    NO_DATA = "calibration found nothing out: no input reached it, or its outputs are not used"
    NO_FACTORS = "its module cannot hold factors: only --layout dense changes it"
    NAME_TAKEN = "the names its factors need are taken"
    ALL_EQUAL = Verdict.ALL_EQUAL.value
    HEAVY_TAILED = Verdict.HEAVY_TAILED.value
    HETEROSCEDASTIC = Verdict.HETEROSCEDASTIC.value
    POOR_FIT = Verdict.POOR_FIT.value
    WIDE_SIGNAL = Verdict.WIDE_SIGNAL.value
    TOO_SMALL = Verdict.TOO_SMALL.value


class KeepRule(Protocol):
    """(Spectrum, EdgeFit) to rank. Implementations are frozen dataclasses in ``KEEP_RULES``."""

    def rank(self, spectrum: Spectrum, fit: EdgeFit) -> int | Untouched:
        """How many singular values to keep, from 0 to p, or why the layer is left alone."""
        ...


KEEP_RULES: Registry[KeepRule] = Registry("keep rule", "rmtcli.keep")


def check_share(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a share, from 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1, not {value}")


def check_count(name: str, value: int) -> None:
    """Raise ValueError unless ``value`` is a count of at least 1."""
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
