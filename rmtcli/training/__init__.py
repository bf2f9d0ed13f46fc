"""RMT-SVD while a network trains (Shmalo, Jenkins and Krupchytskyi, 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rmtcli.training.log import read_log, write_log
from rmtcli.training.schedules import SCHEDULES
from rmtcli.training.step import Change, Step

if TYPE_CHECKING:
    from rmtcli.training.pruner import RMTPruner

__all__ = ["SCHEDULES", "Change", "RMTPruner", "Step", "read_log", "write_log"]


def __getattr__(name: str) -> Any:
    if name == "RMTPruner":  # needs torch, which reading a log does not
        from rmtcli.training.pruner import RMTPruner

        return RMTPruner
    raise AttributeError(f"module 'rmtcli.training' has no attribute '{name}'")
