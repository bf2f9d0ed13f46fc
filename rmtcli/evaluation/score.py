"""Running a network over samples, and through the user's own function."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rmtcli.checkpoint import Checkpoint
from rmtcli.errors import EvaluationError
from rmtcli.evaluation.base import Comparison, Evaluation, Scores
from rmtcli.evaluation.data import Samples, read_samples
from rmtcli.evaluation.network import build, call, run

#: Samples that run through the network at a time.
BATCH = 1024


def compare(
    evaluation: Evaluation, checkpoint: Checkpoint, reference: Checkpoint | None
) -> Comparison:
    """Score a checkpoint's network, and that of the dense one beside it if there is one."""
    samples = None if evaluation.data is None else read_samples(evaluation.data)
    before, after = (
        None if c is None else measure(build(evaluation, c), samples, evaluation.score)
        for c in (reference, checkpoint)
    )
    assert after is not None
    if before is None and after.accuracy is None and after.score is None:
        raise EvaluationError(
            f"{evaluation.data}: has no 'targets' to be right about: name a network to agree with, "
            "by --against"
        )
    return Comparison(evaluation.network, samples, before, after)


def measure(model: nn.Module, samples: Samples | None, function: str | None) -> Scores:
    """Run a network over the samples, and through the user's own function.

    Args:
        model: in evaluation mode, on its device.
        samples: held-out samples, or None.
        function: ``package.module:function`` that takes the model and returns a number, or None.

    Raises:
        EvaluationError: the network does not take these inputs, its outputs are not one row of
            class scores a sample, or the function does not return a number.
    """
    predictions = None if samples is None else predict(model, samples)
    accuracy = None
    if samples is not None and samples.targets is not None:
        accuracy = 100 * float(np.mean(predictions == samples.targets))
    return Scores(predictions, accuracy, None if function is None else _own(model, function))


@torch.inference_mode()
def predict(model: nn.Module, samples: Samples) -> NDArray[np.int64]:
    """The most likely class of each sample, shape (samples,)."""
    found = []
    for start in range(0, len(samples.inputs), BATCH):
        outputs = run(
            model, torch.from_numpy(samples.inputs[start : start + BATCH]), str(samples.path)
        )
        if samples.targets is not None and samples.targets.max() >= outputs.shape[1]:
            raise EvaluationError(
                f"{samples.path}: class {samples.targets.max()} among the targets of a network "
                f"with {outputs.shape[1]} outputs"
            )
        found.append(outputs.argmax(1).cpu().numpy())
    return np.concatenate(found)


def _own(model: nn.Module, function: str) -> float:
    value = call(function, model)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise EvaluationError(f"{function} returned {value!r}, not a number") from None
    if not math.isfinite(number):
        raise EvaluationError(f"{function} returned {number}: a score must be finite")
    return number
