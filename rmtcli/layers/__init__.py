"""Which tensors of a checkpoint are the weights of fully connected layers.

A tensor becomes a stream of :class:`Layer` and :class:`Skipped` values: what is no layer is
reported with its reason, never an error. No weight is read here until a stage asks for it.
"""

from rmtcli.layers.find import find_layers
from rmtcli.layers.layer import Layer, Selection, Skipped, SkipReason, break_even, fingerprint
from rmtcli.layers.order import Link, ordered
from rmtcli.layers.view import GATES, WHOLE, View

__all__ = [
    "GATES",
    "WHOLE",
    "Layer",
    "Link",
    "Selection",
    "SkipReason",
    "Skipped",
    "View",
    "break_even",
    "find_layers",
    "fingerprint",
    "ordered",
]
