"""Measure how well a network still does what it is for.

:class:`Evaluation` is what the user asks for. :meth:`Evaluation.resolve` gives the :class:`Harness`
of one checkpoint: its task, its samples, and a description of its network, each resolved once per
run. The values in this package's face need no torch; building and running a network
(:mod:`~rmtcli.evaluation.network`, :mod:`~rmtcli.evaluation.pretrained`) does.
"""

from rmtcli.evaluation.comparison import Certificate, Comparison
from rmtcli.evaluation.data import Samples
from rmtcli.evaluation.harness import Evaluation, Harness
from rmtcli.evaluation.reading import Reading, Rows
from rmtcli.evaluation.scores import Scores
from rmtcli.evaluation.tasks import TASKS, Task
from rmtcli.evaluation.which_task import implied_task

__all__ = [
    "TASKS",
    "Certificate",
    "Comparison",
    "Evaluation",
    "Harness",
    "Reading",
    "Rows",
    "Samples",
    "Scores",
    "Task",
    "implied_task",
]
