"""The interface of keep rules, their registry, and the reasons to leave a layer as it is."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from rmtcli.edges import EdgeFit, Verdict
from rmtcli.registry import Registry
from rmtcli.spectra import Spectrum


class Untouched(Enum):
    """Why a layer stays as it is; the value is the sentence that a user reads."""

    HEAD = "output head, unless --include names it in full"
    NARROW = (
        "taken for an output head (few outputs, or the only layer): if it is not one, "
        "name it in full with --include"
    )
    NOT_SMALLER = "factors of this rank would not be smaller"
    FULL_RANK = "every direction is kept"
    NO_RANK = "the rule keeps no direction, which would remove the layer"
    NO_SPIKES = "no eigenvalue is above the edge: there is no signal to keep"
    BUDGET = "the budget lets it stay dense"
    GUARD = "nothing can be removed within the allowed drop"
    PLAN = "the plan leaves it as it is"
    MOVES = "in a trial without data, it changed the outputs too much"
    UNTRIED = "its fit is not enough evidence, and the network cannot be tried without data"
    NO_DATA = "no calibration data: no input reached it"
    UNUSED = "no calibration data: the network's outputs do not depend on it"
    NOT_CALIBRATED = (
        "not calibrated: it is not the weight of a linear layer, convolution or embedding of torch "
        "in the network"
    )
    GROUPS = "not calibrated: a grouped convolution"
    NO_FACTORS = "its module cannot hold factors: only --layout dense changes it"
    OTHERS = (
        "its module holds other parameters too, which its factors would lose: only --layout dense "
        "changes it"
    )
    NO_ADAPTER = "no module of its own multiplies by it, so no adapter changes it"
    SHARED = (
        "another module has the same weights, so an adapter would change them twice when it is "
        "merged: hold them whole with --whole"
    )
    NO_STATISTICS = "the statistics do not include it: collect them again to calibrate it"
    OF_OUTPUTS = (
        "calibrated only by its outputs (a convolution or a table), which say nothing about a "
        "change: leave out the calibration"
    )
    ADAPTER = "a layer of an adapter: resize gives it another rank"
    UNPAID = "the budget is spent on other layers"
    NO_BLOCK = "no hidden layer before or after it has units that only the layers around it use"
    NO_ENTRY = "config.json has no entry for this width alone, so --layout narrow cannot change it"
    NAME_TAKEN = "the names that its factors need are already in use"
    ALL_EQUAL = Verdict.ALL_EQUAL.value
    HEAVY_TAILED = Verdict.HEAVY_TAILED.value
    HETEROSCEDASTIC = Verdict.HETEROSCEDASTIC.value
    POOR_FIT = Verdict.POOR_FIT.value
    WIDE_SIGNAL = Verdict.WIDE_SIGNAL.value
    TOO_SMALL = Verdict.TOO_SMALL.value


class KeepRule(Protocol):
    """A rule that chooses a rank: a frozen dataclass, registered in ``KEEP_RULES``.

    One that comes from a publication cites it in a class variable ``reference``.
    """

    def rank(self, spectrum: Spectrum, fit: EdgeFit) -> int | Untouched:
        """Return how many singular values to keep, from 0 to p, or why the layer is left alone."""
        ...


KEEP_RULES: Registry[KeepRule] = Registry(
    "keep rule",
    "rmtcli.keep",
    built_in=("auto", "edge", "energy", "fraction", "hard-threshold", "rank", "relative"),
)


def check_share(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a share, from 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1, not {value}")


def check_count(name: str, value: int) -> None:
    """Raise ValueError unless ``value`` is a count of at least 1."""
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
