"""Rounding weights to a few bits per entry, in the metric of their inputs.

A matrix becomes whole numbers, the codes, and one scale for each group of neighbours. With the
second moment of the inputs, each rounding error is made up for by entries that are rounded later;
of two factors, the left one is fitted again to the rounded right one.
"""

from rmtcli.quantization.factors import round_left, round_weight
from rmtcli.quantization.feedback import OUTPUT_RIDGE, ridged, with_feedback
from rmtcli.quantization.grid import ERRORS, GROUP, Grid, Rounded, is_rounded, nearest, scale_type

__all__ = [
    "ERRORS",
    "GROUP",
    "OUTPUT_RIDGE",
    "Grid",
    "Rounded",
    "is_rounded",
    "nearest",
    "ridged",
    "round_left",
    "round_weight",
    "scale_type",
    "with_feedback",
]
