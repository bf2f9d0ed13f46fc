"""RMT-SVD while a network trains (Shmalo, Jenkins and Krupchytskyi, 2023).

A pruner counts the calls of its ``step`` and knows nothing of epochs: its caller decides what a
unit of time is. Layers are split, truncated or narrowed in place, and the optimizer's state is
carried over to the new parameters. The gradients of factors are scaled by 1/(2s₁) with hooks on the
tensors: a hook sees every gradient once, whichever code calls the optimizer, and a second parameter
group would break schedulers. A layer that was truncated has zeros where its bulk was, so that its
edge follows the rest of the bulk (``edges/truncated.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rmtcli.training.log import read_log, write_log
from rmtcli.training.schedules import SCHEDULES
from rmtcli.training.step import Change, Step

if TYPE_CHECKING:
    from rmtcli.training.pruner import RMTPruner

__all__ = ["SCHEDULES", "Change", "RMTPruner", "Step", "read_log", "write_log"]


def __getattr__(name: str) -> Any:
    if name == "RMTPruner":  # imports torch, which reading a log does not need
        from rmtcli.training.pruner import RMTPruner

        return RMTPruner
    raise AttributeError(f"module 'rmtcli.training' has no attribute '{name}'")
