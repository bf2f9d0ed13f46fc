"""Pruned layers as checkpoints and modules hold them: two factors in place of one weight.

:mod:`~rmtcli.layouts.module` needs torch and is imported where a network is run; the rest
edits tensors and does not.
"""

from rmtcli.layouts.edits import Splitter, check_factors, factor_matrices, join
from rmtcli.layouts.stored_error import ReadBack, stored_errors

__all__ = [
    "ReadBack",
    "Splitter",
    "check_factors",
    "factor_matrices",
    "join",
    "stored_errors",
]
