"""How well a network still does what it did.

The values here need no torch; building and running a network
(:mod:`~rmtcli.evaluation.network`, :mod:`~rmtcli.evaluation.pretrained`) does.
"""

from rmtcli.evaluation.comparison import Certificate, Comparison, Scores
from rmtcli.evaluation.data import Samples
from rmtcli.evaluation.harness import Evaluation, Harness
from rmtcli.evaluation.tasks import TASKS, Rows, Task

__all__ = [
    "TASKS",
    "Certificate",
    "Comparison",
    "Evaluation",
    "Harness",
    "Rows",
    "Samples",
    "Scores",
    "Task",
]
