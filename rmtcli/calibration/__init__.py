"""What the layers of a network see: moments of their inputs and output gradients.

The moments are collected by :mod:`rmtcli.running`, which needs torch; what is done with them
(:mod:`~rmtcli.calibration.metric`) does not.
"""

from rmtcli.calibration.base import Calibrated, Calibration
from rmtcli.calibration.metric import Decomposition, decompose, decompose_together, redirect
from rmtcli.calibration.moments import Moments
from rmtcli.calibration.stats import Origin, read_stats, write_stats

__all__ = [
    "Calibrated",
    "Calibration",
    "Decomposition",
    "Moments",
    "Origin",
    "decompose",
    "decompose_together",
    "read_stats",
    "redirect",
    "write_stats",
]
