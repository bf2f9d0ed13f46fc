"""Running a network over samples, and through the user's own function."""

from __future__ import annotations

import logging
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rmtcli.checkpoint import Checkpoint
from rmtcli.errors import EvaluationError
from rmtcli.evaluation.certificate import certified
from rmtcli.evaluation.comparison import Comparison, Scores
from rmtcli.evaluation.confidence import cosines
from rmtcli.evaluation.data import Samples
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
            checkpoint: the network in question.
            unhealed: the network before it was healed, or None.

        Raises:
            EvaluationError: there is nothing to be right about.
        """
        network = build(self.harness, checkpoint)
        after = self._measure(network, self.before)
        if self.before is None and after.accuracy is None and after.score is None:
            raise EvaluationError(
                f"{self.harness.evaluation.data}: has no 'targets' to be right about: name a "
                "network to agree with, by --against"
            )
        earlier = None
        if unhealed is not None:
            earlier = self._measure(build(self.harness, unhealed), self.before)
        sure = None
        if self.dense is not None and self.samples is not None:
            sure = certified(self.dense, network, self.samples.inputs)
        return Comparison(
            self.harness.description,
            self.samples,
            self.before,
            after,
            earlier,
            sure,
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
    """Run a network over the samples, and through the user's own function.

    Args:
        model: in evaluation mode, on its device.
        samples: held-out samples, or None.
        function: ``package.module:function`` that takes the model and returns a number, or None.
        task: what the network is for; class scores for arrays by default.
        dense: scores of the dense network, which embeddings are compared with; None for its own.

    Raises:
        EvaluationError: the network does not take these inputs, its outputs are not one row of
            class scores a sample, or the function does not return a number.
    """
    _LOGGER.info("scoring on %s samples", "no" if samples is None else len(samples.inputs))
    task = task or Arrays()
    network = model.network if isinstance(model, Pretrained) else model
    score = None if function is None else _own(network, function)
    if samples is None:
        return Scores(None, None, score)
    if samples.targets is not None and samples.targets.ndim == 2:
        right, chosen, perplexity = _language(model, samples, task.batch)
        return Scores(None, right, score, chosen, perplexity)
    outputs = scores(model, samples, task.batch)
    accuracy = None
    if task.rows is Rows.VECTORS:
        before = None if dense is None else dense.outputs
        accuracy = 100.0 if before is None else 100 * float(cosines(before, outputs).mean())
    elif samples.targets is not None:
        accuracy = 100 * float(np.mean(outputs.argmax(1) == samples.targets))
    return Scores(outputs, accuracy, score)


@torch.inference_mode()
def scores(model: nn.Module, samples: Samples, batch: int = Arrays.batch) -> NDArray[np.floating]:
    """The network's outputs, shape (samples, width)."""
    found = []
    for start in range(0, len(samples.inputs), batch):
        outputs = run(
            model, torch.from_numpy(samples.inputs[start : start + batch]), str(samples.path)
        )
        if samples.targets is not None and samples.targets.max() >= outputs.shape[1]:
            raise EvaluationError(
                f"{samples.path}: class {samples.targets.max()} among the targets of a network "
                f"with {outputs.shape[1]} outputs"
            )
        found.append(_array(outputs))
    return np.concatenate(found)


@torch.inference_mode()
def _language(
    model: nn.Module, samples: Samples, batch: int
) -> tuple[float, NDArray[np.int64], float]:
    """Share of next tokens that are right in percent, tokens chosen, perplexity.

    A row of scores for every token of a vocabulary is let go as soon as it is read.
    """
    assert samples.targets is not None
    chosen, total = [], 0.0
    for start in range(0, len(samples.inputs), batch):
        rows = slice(start, start + batch)
        outputs = run(model, torch.from_numpy(samples.inputs[rows]), str(samples.path)).float()
        targets = torch.from_numpy(samples.targets[rows].reshape(-1)).to(outputs.device)
        total += float(nn.functional.cross_entropy(outputs, targets, reduction="sum"))
        chosen.append(outputs.argmax(1).cpu().numpy())
    found, wanted = np.concatenate(chosen), samples.targets.reshape(-1)
    right = 100 * float(np.mean(found == wanted))
    return right, found, math.exp(min(total / len(wanted), 700.0))


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
