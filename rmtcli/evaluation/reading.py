"""What the rows of a network's outputs are, as a task says or as targets and outputs show.

This module imports neither torch nor transformers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.errors import EvaluationError
from rmtcli.evaluation.data import Samples
from rmtcli.options import option

#: Norms and sums that differ less from 1 count as 1; half precision gives no better.
NEAR_ONE = 0.01
#: Smaller probabilities are raised to this before logarithms are taken.
LEAST = 1e-30
#: The same on both sides for the log odds of a label, near the precision of float32.
LEAST_ODDS = 1e-7


class Rows(Enum):
    """The meaning of one row of a network's outputs; the value is the name of a task."""

    CLASSES = "classification"
    LABELS = "multi-label-classification"
    VECTORS = "embedding"
    VALUES = "regression"

    @property
    def needs_targets(self) -> bool:
        """Whether quality needs targets, for which the dense network's outputs cannot stand."""
        return self in (Rows.CLASSES, Rows.LABELS)

    @property
    def points(self) -> str:
        """What a loss is counted in, hundredths of which are points."""
        words = {Rows.LABELS: "label accuracy", Rows.VECTORS: "cosine", Rows.VALUES: "R²"}
        return words.get(self, "accuracy")


@dataclass(frozen=True, slots=True)
class Reading:
    """How the rows of a network's outputs are read.

    Attributes:
        rows: what a row is.
        probabilities: whether the outputs of a classifier are probabilities: a softmax or sigmoid
            is a part of the network.
        why: why they are read so, for reports; empty where a directory says it.
    """

    rows: Rows
    probabilities: bool = False
    why: str = ""

    @property
    def words(self) -> str:
        """The task and the reason for it, for reports; empty where a directory says it."""
        if not self.why:
            return ""
        outputs = "; its outputs are probabilities" if self.probabilities else ""
        return f"{self.rows.value} ({self.why}){outputs}"

    def scores(self, outputs: Any) -> Any:
        """Scores of a torch tensor of outputs: of probabilities, logarithms or log odds."""
        if not self.probabilities:
            return outputs
        if self.rows is Rows.LABELS:
            return outputs.float().logit(LEAST_ODDS)
        return outputs.float().clamp_min(LEAST).log()

    def ready(self, samples: Samples) -> Samples:
        """Samples with targets in the form that measures need.

        Classes are integers of shape (samples,); labels and numbers have shape (samples, width);
        embeddings need no targets, and have none.

        Raises:
            EvaluationError: the targets are none for this task.
        """
        targets = samples.targets
        if targets is None or samples.next_tokens:
            return samples
        if self.rows is Rows.VECTORS:
            return replace(samples, targets=None)
        if self.rows is Rows.CLASSES:
            return replace(samples, targets=_classes(samples, targets))
        table = targets.reshape(len(targets), -1)
        if self.rows is Rows.LABELS and not _binary(table):
            raise EvaluationError(
                f"{samples.path}: the targets of {self.rows.value} must be 0 or 1: "
                f"is this the right {option('task')}?"
            )
        return replace(samples, targets=table.astype(np.float64))


#: Class scores of a network whose directory, or test, says that they are.
CLASSES = Reading(Rows.CLASSES)


def read_rows(targets: NDArray[Any] | None, outputs: FloatArray, rows: Rows | None) -> Reading:
    """How a network's outputs are read.

    Args:
        targets: as the data file has them; None without targets.
        outputs: shape (samples, width), of the dense network on some samples.
        rows: what the user's task says; None to infer it.
    """
    why = option("task")
    if rows is None and targets is not None:
        rows, why = _by_targets(targets, outputs.shape[1])
    elif rows is None:
        rows, why = _by_outputs(outputs)
    return Reading(rows, _probabilities(outputs, rows), why)


def _by_targets(targets: NDArray[Any], width: int) -> tuple[Rows, str]:
    column = targets.ndim == 1 or targets.shape[1] == 1
    if column and width == 1 and _binary(targets):
        return Rows.LABELS, "inferred: the targets are 0 or 1, and there is one output"
    if column and targets.dtype.kind != "f":
        return Rows.CLASSES, "inferred: the targets are class numbers"
    if column or not _binary(targets):
        return Rows.VALUES, "inferred: the targets are numbers other than classes"
    if _one_hot(targets):
        return Rows.CLASSES, "inferred: each row of the targets marks one class"
    return Rows.LABELS, "inferred: the targets are rows of 0 and 1"


def _by_outputs(outputs: FloatArray) -> tuple[Rows, str]:
    if _probabilities(outputs, Rows.CLASSES):
        return Rows.CLASSES, "inferred: no targets, and outputs that add up to 1"
    if outputs.shape[1] > 1 and _near_one(np.linalg.norm(outputs, axis=1)):
        return Rows.VECTORS, "inferred: no targets, and outputs of norm 1"
    if _probabilities(outputs, Rows.LABELS):
        return Rows.LABELS, "inferred: no targets, and outputs between 0 and 1"
    if outputs.shape[1] == 1:
        return Rows.VALUES, "inferred: no targets, and one output"
    return (
        Rows.CLASSES,
        f"assumed, because there are no targets: name another with {option('task')}",
    )


def _probabilities(outputs: FloatArray, rows: Rows) -> bool:
    """Whether outputs are probabilities of classes or of labels."""
    if rows is Rows.CLASSES:
        return outputs.shape[1] > 1 and bool(outputs.min() >= 0) and _near_one(outputs.sum(1))
    return rows is Rows.LABELS and bool(outputs.min() > 0) and bool(outputs.max() <= 1)


def _near_one(values: FloatArray) -> bool:
    return bool(np.all(np.abs(values - 1) < NEAR_ONE))


def _binary(targets: NDArray[Any]) -> bool:
    return bool(np.isin(targets, (0, 1)).all())


def _one_hot(targets: NDArray[Any]) -> bool:
    return targets.ndim == 2 and _binary(targets) and bool((targets.sum(1) == 1).all())


def _classes(samples: Samples, targets: NDArray[Any]) -> NDArray[np.int64]:
    """Class numbers, shape (samples,).

    Raises:
        EvaluationError: the targets are not classes.
    """
    if targets.ndim == 2 and targets.shape[1] > 1 and _one_hot(targets):
        return np.asarray(targets.argmax(1), np.int64)
    column = targets.reshape(-1)
    if len(column) != len(targets) or targets.dtype.kind == "f":
        raise EvaluationError(
            f"{samples.path}: the targets of classification must be {len(targets)} class numbers "
            f"(integers), not {targets.dtype} of shape {targets.shape}: is this the right "
            f"{option('task')}?"
        )
    if column.min() < 0 or column.max() > np.iinfo(np.int64).max:
        raise EvaluationError(
            f"{samples.path}: the targets hold a number that is not a class number"
        )
    return column.astype(np.int64)
