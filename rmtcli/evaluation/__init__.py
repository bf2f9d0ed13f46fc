"""How well a network still does what it did.

The values here need no torch; building and running a network
(:mod:`~rmtcli.evaluation.network`, :mod:`~rmtcli.evaluation.pretrained`) does.
"""

from rmtcli.evaluation.base import Certificate, Comparison, Evaluation, Scores
from rmtcli.evaluation.data import Samples
from rmtcli.evaluation.tasks import TASKS, Rows, Task

__all__ = [
    "TASKS",
    "Certificate",
    "Comparison",
    "Evaluation",
    "Rows",
    "Samples",
    "Scores",
    "Task",
]
