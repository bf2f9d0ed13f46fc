"""Score networks: run them over samples, and pass them to the user's own function."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rmtcli.checkpoint import Checkpoint
from rmtcli.computing.steps import tracked
from rmtcli.errors import EvaluationError
from rmtcli.evaluation.certificate import certified
from rmtcli.evaluation.comparison import Comparison, Scores
from rmtcli.evaluation.confidence import cosines
from rmtcli.evaluation.data import Samples, next_of
from rmtcli.evaluation.harness import Harness
from rmtcli.evaluation.network import build, call, run
from rmtcli.evaluation.pretrained import Pretrained
from rmtcli.evaluation.tasks import Arrays, Rows, Task

_LOGGER = logging.getLogger(__name__)


class Scorer:
    """Scores networks beside the dense one, which runs once.

    Args:
        harness: how the networks are built, fed and scored.
        reference: the dense network's harness, which may be ``harness`` itself; None to score
            networks alone.
        samples: what to run on; by default all samples of the harness.
    """

    def __init__(
        self, harness: Harness, reference: Harness | None, samples: Samples | None = None
    ) -> None:
        self.harness = harness
        self.samples = harness.samples if samples is None else samples
        self.dense = None if reference is None else build(reference)
        self.before = None if self.dense is None else self._measure(self.dense, None)

    def compare(self, checkpoint: Checkpoint, unhealed: Checkpoint | None = None) -> Comparison:
        """Score a network.

        Args:
            checkpoint: the network to score.
            unhealed: the network before it was trained, or None.

        Raises:
            EvaluationError: the network cannot be built or fed, or there is nothing to measure.
        """
        network = build(self.harness, checkpoint)
        after = self._measure(network, self.before)
        if self.before is None and after.accuracy is None and after.score is None:
            raise EvaluationError(
                f"{self.harness.evaluation.data}: has no 'targets', so accuracy cannot be "
                "measured: give --against to compare with another network"
            )
        before_training = None
        if unhealed is not None:
            before_training = self._measure(build(self.harness, unhealed), self.before)
        certificate = None
        if self.dense is not None and self.samples is not None:
            certificate = certified(self.dense, network, self.samples.inputs)
        return Comparison(
            self.harness.description,
            self.samples,
            self.before,
            after,
            before_training,
            certificate,
            self.harness.task.rows,
        )

    def _measure(self, model: nn.Module, dense: Scores | None) -> Scores:
        function = self.harness.evaluation.score
        return measure(model, self.samples, function, self.harness.task, dense)


def measure(
    model: nn.Module,
    samples: Samples | None,
    function: str | None,
    task: Task | None = None,
    dense: Scores | None = None,
) -> Scores:
    """Run a network over samples, and pass it to the user's own function.

    Args:
        model: the network, in evaluation mode, on its device.
        samples: held-out samples, or None.
        function: ``package.module:function`` that takes the model and returns a number, or None.
        task: what the network is for; by default it returns class scores for arrays.
        dense: scores of the dense network, with which embeddings are compared; None for the dense
            network itself.

    Raises:
        EvaluationError: the network does not take these inputs, does not return one row of outputs
            per sample, or the function does not return a number.
    """
    _LOGGER.info("scoring on %s samples", "no" if samples is None else len(samples.inputs))
    task = task or Arrays()
    network = model.network if isinstance(model, Pretrained) else model
    score = None if function is None else _user_score(network, function)
    if samples is None:
        return Scores(None, None, score)
    if samples.targets is not None and samples.targets.ndim == 2:
        return replace(_language(model, samples, task.batch), score=score)
    outputs = scores(model, samples, task.batch)
    accuracy = None
    if task.rows is Rows.VECTORS:
        before = None if dense is None else dense.outputs
        accuracy = 100.0 if before is None else 100 * float(cosines(before, outputs).mean())
    elif samples.targets is not None:
        accuracy = 100 * float(np.mean(outputs.argmax(1) == samples.targets))
    return Scores(outputs, accuracy, score, classes=outputs.shape[1])


@torch.inference_mode()
def scores(model: nn.Module, samples: Samples, batch: int = Arrays.batch) -> NDArray[np.floating]:
    """Run a network over samples; the outputs have shape (samples, width).

    Raises:
        EvaluationError: a target is not one of the network's classes.
    """
    batches = []
    for start in tracked(range(0, len(samples.inputs), batch), "scoring"):
        outputs = run(
            model, torch.from_numpy(samples.inputs[start : start + batch]), str(samples.path)
        )
        if samples.targets is not None and samples.targets.max() >= outputs.shape[1]:
            raise EvaluationError(
                f"{samples.path}: class {samples.targets.max()} among the targets of a network "
                f"with {outputs.shape[1]} outputs"
            )
        batches.append(_array(outputs))
    return np.concatenate(batches)


@torch.inference_mode()
def _language(model: nn.Module, samples: Samples, batch: int) -> Scores:
    """Measure a language model: percent of next tokens predicted, predicted tokens, perplexity.

    Class scores over the vocabulary are released batch by batch.
    """
    assert samples.targets is not None
    chosen, total, width = [], 0.0, 0
    for start in tracked(range(0, len(samples.inputs), batch), "scoring"):
        rows = slice(start, start + batch)
        outputs = run(model, torch.from_numpy(samples.inputs[rows]), str(samples.path)).float()
        next_tokens = torch.from_numpy(next_of(samples.targets[rows])).to(outputs.device)
        total += float(nn.functional.cross_entropy(outputs, next_tokens, reduction="sum"))
        chosen.append(outputs.argmax(1).cpu().numpy())
        width = outputs.shape[1]
    predicted, targets = np.concatenate(chosen), next_of(samples.targets)
    accuracy = 100 * float(np.mean(predicted == targets))
    perplexity = math.exp(min(total / len(targets), 700.0))
    return Scores(None, accuracy, None, predicted, perplexity, width)


def _array(outputs: torch.Tensor) -> NDArray[np.floating]:
    """Convert outputs to an array of their type; bfloat16, which NumPy lacks, becomes float32."""
    wide = outputs.float() if outputs.dtype is torch.bfloat16 else outputs
    array: NDArray[np.floating] = wide.cpu().numpy()
    return array


def _user_score(model: nn.Module, function: str) -> float:
    """The number that the user's own function returns for a network.

    Raises:
        EvaluationError: it does not return a finite number.
    """
    value = call(function, model)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise EvaluationError(f"{function} returned {value!r}, not a number") from None
    if not math.isfinite(number):
        raise EvaluationError(f"{function} returned {number}: a score must be finite")
    return number
