"""How compressed layers are stored, in a checkpoint and in a torch module: one file per layout.

A layout is an object with both directions side by side: it makes the tensors that take the place of
a weight, and the weight from these tensors. :mod:`~rmtcli.layouts.module` and
:mod:`~rmtcli.layouts.split` need torch and are imported where a network is run; everything else
works on tensors in files.
"""

# The default comes first: help and messages list layouts in the order of these imports.
from rmtcli.layouts import factored, pivoted, dense, narrow, auto  # isort: skip
from rmtcli.layouts.auto import Auto
from rmtcli.layouts.base import LAYOUTS, Layout, undivided
from rmtcli.layouts.dense import Dense
from rmtcli.layouts.edits import (
    Replacements,
    check_factors,
    join,
    layout_of,
    split_modules,
    with_values,
)
from rmtcli.layouts.factored import Factored, choices_for
from rmtcli.layouts.narrow import Narrow, NarrowBlock, narrow_edits, widened
from rmtcli.layouts.pivoted import Pivoted
from rmtcli.layouts.stored_error import ReadBack, stored_errors

__all__ = [
    "LAYOUTS",
    "Auto",
    "Dense",
    "Factored",
    "Layout",
    "Narrow",
    "NarrowBlock",
    "Pivoted",
    "ReadBack",
    "Replacements",
    "auto",
    "check_factors",
    "choices_for",
    "dense",
    "factored",
    "join",
    "layout_of",
    "narrow",
    "narrow_edits",
    "pivoted",
    "split_modules",
    "stored_errors",
    "undivided",
    "widened",
    "with_values",
]
