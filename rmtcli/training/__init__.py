"""RMT-SVD while a network trains (Shmalo, Jenkins and Krupchytskyi, 2023)."""

from rmtcli.training.log import read_log, write_log
from rmtcli.training.pruner import RMTPruner
from rmtcli.training.schedules import SCHEDULES
from rmtcli.training.step import Step

__all__ = ["SCHEDULES", "RMTPruner", "Step", "read_log", "write_log"]
