"""Rules that turn a spectrum and its edge into a rank, one rule a file."""

from rmtcli.keep import auto, edge, energy, fraction, hard_threshold, rank, relative
from rmtcli.keep.base import KEEP_RULES, KeepRule, Untouched

__all__ = [
    "KEEP_RULES",
    "KeepRule",
    "Untouched",
    "auto",
    "edge",
    "energy",
    "fraction",
    "hard_threshold",
    "rank",
    "relative",
]
