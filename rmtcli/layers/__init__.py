"""Find the fully connected layers of a checkpoint.

A checkpoint becomes a stream of :class:`Layer` and :class:`Skipped` values: a matrix that is not a
layer is reported with the reason, and is never an error. Weights are read only when a later stage
calls :meth:`Layer.read`, or to compare tensors that may be tied.
"""

from rmtcli.layers.blocks import Block
from rmtcli.layers.find import find_layers
from rmtcli.layers.layer import (
    Layer,
    Selection,
    Skipped,
    SkipReason,
    break_even,
    fingerprint,
    matches,
)
from rmtcli.layers.order import Link, ordered
from rmtcli.layers.view import GATES, WHOLE, View

__all__ = [
    "GATES",
    "WHOLE",
    "Block",
    "Layer",
    "Link",
    "Selection",
    "SkipReason",
    "Skipped",
    "View",
    "break_even",
    "find_layers",
    "fingerprint",
    "matches",
    "ordered",
]
