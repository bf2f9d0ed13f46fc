"""What a classifier's configuration says about its outputs, and the labels that fit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmtcli.checkpoint.huggingface.config import read_object
from rmtcli.errors import CheckpointError, EvaluationError
from rmtcli.evaluation.reading import CLASSES, Reading, Rows
from rmtcli.files import CONFIG


def reading_of_config(config: Mapping[str, Any]) -> Reading:
    """How the outputs of a classifier of transformers are read, as transformers trains them.

    ``problem_type`` in the configuration says so; without it, one label is a number (regression).
    """
    problem, names = config.get("problem_type"), config.get("id2label")
    if problem == "multi_label_classification":
        return Reading(Rows.LABELS, why=f"{CONFIG}: problem_type {problem}")
    if problem == "regression":
        return Reading(Rows.VALUES, why=f"{CONFIG}: problem_type {problem}")
    if problem is None and isinstance(names, dict) and len(names) == 1:
        return Reading(Rows.VALUES, why=f"{CONFIG}: one label")
    return CLASSES


def config_of(directory: Path) -> Mapping[str, Any]:
    """The configuration of a directory; empty if it cannot be read."""
    try:
        return read_object(directory / CONFIG)
    except (OSError, CheckpointError):
        return {}


def targets_of(path: Path, labels: Sequence[Any], directory: Path) -> NDArray[Any] | None:
    """The targets that the labels of a file's lines give; None if no line has a label.

    Args:
        path: the file, for messages.
        labels: one per line: a class number or name; a list of 0 and 1 for several labels; a number
            for regression; None where there is none.
        directory: has the names and the kind of the classes.

    Raises:
        EvaluationError: a label is unknown or of another kind, or only some lines have one.
    """
    if all(label is None for label in labels):
        return None
    if any(label is None for label in labels):
        raise EvaluationError(f"{path}: some lines have a 'label' and some have none")
    rows = reading_of_config(config_of(directory)).rows
    if rows is Rows.CLASSES:
        numbers = object_of(directory / CONFIG).get("label2id")
        numbers = numbers if isinstance(numbers, dict) else {}
        return np.array([_class(path, label, numbers) for label in labels], np.int64)
    try:
        targets = np.array(labels, np.float64)
    except (TypeError, ValueError):
        targets = np.zeros((0, 0, 0))
    if targets.ndim != (2 if rows is Rows.LABELS else 1) or not np.isfinite(targets).all():
        kind = "a list of 0 and 1 of one length" if rows is Rows.LABELS else "a number"
        raise EvaluationError(f"{path}: each 'label' must be {kind}, for {rows.value}")
    return targets


def _class(path: Path, label: object, numbers: dict[str, int]) -> int:
    """The class number of a label, which may be a number or a name.

    Raises:
        EvaluationError: the network has no such class.
    """
    if isinstance(label, int) and label >= 0:
        return label
    if isinstance(label, str) and type(numbers.get(label)) is int:
        return numbers[label]
    known = ", ".join(numbers) or "none has a name"
    raise EvaluationError(f"{path}: label {label!r} is not a class of this network: {known}")


def object_of(file: Path) -> dict[str, Any]:
    """Read a JSON object of a directory.

    Raises:
        CheckpointError: the file is not a JSON object.
        EvaluationError: the file is missing or cannot be read.
    """
    try:
        return read_object(file)
    except OSError as error:
        raise EvaluationError(f"{file}: cannot be read ({error.strerror})") from None
