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
from rmtcli.evaluation.certificate import certified
from rmtcli.evaluation.data import Samples, read_samples
from rmtcli.evaluation.network import build, call, run

#: Samples that run through the network at a time.
BATCH = 1024


class Scorer:
    """Scores networks beside the dense one, which is run once.

    Args:
        evaluation: how to score.
        reference: the dense network, or None.
        samples: what to run on; all that the evaluation names by default.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        reference: Checkpoint | None,
        samples: Samples | None = None,
    ) -> None:
        if samples is None and evaluation.data is not None:
            samples = read_samples(evaluation.data)
        self.evaluation = evaluation
        self.samples = samples
        self.dense = None if reference is None else build(evaluation, reference)
        self.before = None if self.dense is None else self._measure(self.dense)

    def compare(self, checkpoint: Checkpoint, unhealed: Checkpoint | None = None) -> Comparison:
        """Score a network.

        Args:
            checkpoint: the network in question.
            unhealed: the network before it was healed, or None.

        Raises:
            EvaluationError: there is nothing to be right about.
        """
        network = build(self.evaluation, checkpoint)
        after = self._measure(network)
        if self.before is None and after.accuracy is None and after.score is None:
            raise EvaluationError(
                f"{self.evaluation.data}: has no 'targets' to be right about: name a network to "
                "agree with, by --against"
            )
        earlier = None if unhealed is None else self._measure(build(self.evaluation, unhealed))
        sure = None
        if self.dense is not None and self.samples is not None:
            sure = certified(self.dense, network, self.samples.inputs)
        return Comparison(self.evaluation.network, self.samples, self.before, after, earlier, sure)

    def _measure(self, model: nn.Module) -> Scores:
        return measure(model, self.samples, self.evaluation.score)


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
    outputs = None if samples is None else scores(model, samples)
    accuracy = None
    if samples is not None and samples.targets is not None and outputs is not None:
        accuracy = 100 * float(np.mean(outputs.argmax(1) == samples.targets))
    return Scores(outputs, accuracy, None if function is None else _own(model, function))


@torch.inference_mode()
def scores(model: nn.Module, samples: Samples) -> NDArray[np.floating]:
    """The network's class scores, shape (samples, classes)."""
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
        found.append(_array(outputs))
    return np.concatenate(found)


def _array(outputs: torch.Tensor) -> NDArray[np.floating]:
    """An array of the outputs' type; numpy knows no bfloat16."""
    wide = outputs.float() if outputs.dtype is torch.bfloat16 else outputs
    array: NDArray[np.floating] = wide.cpu().numpy()
    return array


def _own(model: nn.Module, function: str) -> float:
    value = call(function, model)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise EvaluationError(f"{function} returned {value!r}, not a number") from None
    if not math.isfinite(number):
        raise EvaluationError(f"{function} returned {number}: a score must be finite")
    return number
