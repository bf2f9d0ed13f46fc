"""Score networks: run them over samples, and pass them to the user's own function."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Checkpoint
from rmtcli.computing.steps import tracked
from rmtcli.errors import EvaluationError
from rmtcli.evaluation.certificate import certifiable, certified
from rmtcli.evaluation.comparison import Comparison
from rmtcli.evaluation.data import NO_TARGET, Samples, next_of
from rmtcli.evaluation.harness import Harness, Score
from rmtcli.evaluation.measures import merits, squared_error
from rmtcli.evaluation.network import build, reading_of, run
from rmtcli.evaluation.pretrained import Pretrained
from rmtcli.evaluation.reading import Reading, Rows
from rmtcli.evaluation.scores import Scores
from rmtcli.evaluation.sense import check_scores
from rmtcli.evaluation.tasks import Arrays
from rmtcli.evaluation.user_code import call, words_of
from rmtcli.options import option

_LOGGER = logging.getLogger(__name__)


class Scorer:
    """Scores networks beside the dense one, which runs once.

    Args:
        harness: how the networks are built, fed and scored.
        reference: the dense network's harness, which may be ``harness`` itself; None to score
            networks alone.
        samples: what to run on; by default all samples of the harness.

    Raises:
        EvaluationError: the dense network cannot be built or fed, or is worse than chance.
    """

    def __init__(
        self, harness: Harness, reference: Harness | None, samples: Samples | None = None
    ) -> None:
        self.harness, self.reference = harness, reference
        self.samples = harness.samples if samples is None else samples
        self.before: Scores | None = None
        self._dense: nn.Module | None = None
        if reference is not None:
            dense = build(reference)
            reading = self._read(dense)
            self.before = self._measure(dense, None)
            self._check(reference.checkpoint, self.before, reading)
            if self.samples is not None and reading.rows is Rows.CLASSES:
                self._dense = dense if certifiable(dense) else None

    def compare(
        self,
        checkpoint: Checkpoint,
        unhealed: Checkpoint | None = None,
        *,
        certify: bool = True,
    ) -> Comparison:
        """Score a network.

        Args:
            checkpoint: the network to score.
            unhealed: the network before it was trained, or None.
            certify: whether to count the samples that are certain to keep their class, which takes
                several times as long as running both networks.

        Raises:
            EvaluationError: the network cannot be built or fed, or there is nothing to measure.
        """
        network = build(self.harness, checkpoint)
        reading = self._read(network)
        after = self._measure(network, self.before)
        if self.before is None:
            self._check(checkpoint, after, reading)
            if after.accuracy is None and after.score is None:
                raise EvaluationError(
                    f"{self.harness.evaluation.data}: has no 'targets', so accuracy cannot be "
                    f"measured: give {option('against')} to compare with another network"
                )
        before_training = None
        if unhealed is not None:
            before_training = self._measure(build(self.harness, unhealed), self.before)
        certificate = None
        if certify and self._dense is not None and self.samples is not None:
            certificate = certified(self._dense, network, self.samples.inputs)
        return Comparison(
            self.harness.description,
            None if self.samples is None else reading.ready(self.samples),
            self.before,
            after,
            before_training,
            certificate,
            reading,
        )

    def _read(self, model: nn.Module) -> Reading:
        return reading_of(self.harness, model, self.samples)

    def _check(self, checkpoint: Checkpoint, scores: Scores, reading: Reading) -> None:
        """Refuse a dense network that is worse than chance."""
        if self.samples is not None and checkpoint.manifest is None:
            check_scores(scores, self.samples, reading.rows)

    def _measure(self, model: nn.Module, dense: Scores | None) -> Scores:
        function, batch = self.harness.evaluation.score, self.harness.task.batch
        return measure(model, self.samples, function, self._read(model), dense, batch=batch)


def measure(
    model: nn.Module,
    samples: Samples | None,
    function: Score | None,
    reading: Reading,
    dense: Scores | None = None,
    *,
    batch: int = Arrays.batch,
) -> Scores:
    """Run a network over samples, and pass it to the user's own function.

    Args:
        model: the network, in evaluation mode, on its device.
        samples: held-out samples, or None.
        function: takes the model and returns a number, or one number per sample, or its name; or
            None.
        reading: how its outputs are read.
        dense: scores of the dense network, whose outputs stand for targets of embeddings and, where
            there are none, of numbers; None for the dense network itself.
        batch: samples per forward pass.

    Raises:
        EvaluationError: the network does not take these inputs, does not return one row of outputs
            per sample that its task can have, or the function does not return a number.
    """
    _LOGGER.info("scoring on %s samples", "no" if samples is None else len(samples.inputs))
    network = model.whole if isinstance(model, Pretrained) else model
    score, scored = (None, None) if function is None else _user_score(network, function)
    if samples is None:
        return Scores(None, None, score, scored=scored)
    if samples.next_tokens:
        return replace(_language(model, samples, batch), score=score, scored=scored)
    samples = reading.ready(samples)
    outputs = scores(model, samples, reading, batch)
    targets, rows = samples.targets, reading.rows
    wanted = targets
    if targets is None and not rows.needs_targets:
        wanted = outputs if dense is None else dense.outputs
    try:
        own = None if wanted is None else merits(outputs, wanted, rows)
    except ValueError as error:
        raise EvaluationError(f"{samples.path}: {error}") from None
    squares = None
    if rows is Rows.VALUES and targets is not None:
        squares = squared_error(outputs, targets)
    accuracy = None if own is None else 100 * float(own.mean())
    classes = outputs.shape[1] if rows is Rows.CLASSES else None
    result = Scores(outputs, accuracy, score, classes=classes, merits=own, scored=scored)
    return replace(result, squared_error=squares)


@torch.inference_mode()
def scores(
    model: nn.Module, samples: Samples, reading: Reading, batch: int = Arrays.batch
) -> NDArray[np.floating]:
    """Run a network over samples; the outputs have shape (samples, width).

    Raises:
        EvaluationError: the targets do not fit the network's outputs.
    """
    batches: list[NDArray[np.floating]] = []
    for start in tracked(range(0, len(samples.inputs), batch), "scoring"):
        outputs = run(
            model, torch.from_numpy(samples.inputs[start : start + batch]), str(samples.path)
        )
        if not batches:
            _check_width(samples, reading, outputs.shape[1])
        batches.append(_array(reading.scores(outputs)))
    return np.concatenate(batches)


def _check_width(samples: Samples, reading: Reading, width: int) -> None:
    """Make sure that the targets, ready for measuring, fit a network with ``width`` outputs.

    Raises:
        EvaluationError: they do not.
    """
    targets, which = samples.targets, f"is {reading.rows.value} the right {option('task')}?"
    if targets is None:
        return
    if targets.ndim == 2 and targets.shape[1] != width:
        raise EvaluationError(
            f"{samples.path}: {targets.shape[1]} targets per sample for a network with {width} "
            f"outputs: {which}"
        )
    if targets.ndim == 1 and targets.max() >= width:
        raise EvaluationError(
            f"{samples.path}: has class {targets.max()} among its targets, but the network has "
            f"only {width} outputs: {which}"
        )


@torch.inference_mode()
def _language(model: nn.Module, samples: Samples, batch: int) -> Scores:
    """Measure a language model: percent of next tokens predicted, predicted tokens, perplexity.

    Class scores over the vocabulary are released batch by batch.
    """
    assert samples.targets is not None
    chosen, losses, width = [], [], 0
    for start in tracked(range(0, len(samples.inputs), batch), "scoring"):
        rows = slice(start, start + batch)
        outputs = run(model, torch.from_numpy(samples.inputs[rows]), str(samples.path)).float()
        next_tokens = torch.from_numpy(next_of(samples.targets[rows])).to(outputs.device)
        own = nn.functional.cross_entropy(outputs, next_tokens, reduction="none")
        losses.append(own.double().cpu().numpy())
        chosen.append(outputs.argmax(1).cpu().numpy())
        width = outputs.shape[1]
    predicted, targets = np.concatenate(chosen), next_of(samples.targets)
    right = np.asarray(predicted == targets, np.float64)
    each = np.concatenate(losses)
    perplexity = math.exp(min(float(each.sum()) / len(targets), 700.0))
    counts = (samples.targets != NO_TARGET).sum(1)
    owner = np.repeat(np.arange(len(counts)), counts)
    texts = np.stack([np.bincount(owner, each, len(counts)), counts], axis=1)
    return Scores(
        None, 100 * float(right.mean()), None, predicted, perplexity, width, right, texts=texts
    )


def _array(outputs: torch.Tensor) -> NDArray[np.floating]:
    """Convert outputs to an array of their type; bfloat16, which NumPy lacks, becomes float32."""
    wide = outputs.float() if outputs.dtype is torch.bfloat16 else outputs
    array: NDArray[np.floating] = wide.cpu().numpy()
    return array


def _user_score(model: nn.Module, function: Score) -> tuple[float, FloatArray | None]:
    """The number that the user's own function returns for a network, or the mean of its numbers.

    Returns:
        The score, and that of each sample where the function returns one for each.

    Raises:
        EvaluationError: it does not return finite numbers.
    """
    value, name = call(function, model), words_of(function)
    try:
        if value is None:
            raise TypeError
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, np.float64)
    except (TypeError, ValueError):
        raise EvaluationError(f"{name} returned {value!r}, not a number") from None
    if array.ndim > 1 or array.size == 0:
        raise EvaluationError(
            f"{name} returned an array of shape {array.shape}, not one number, or one per sample"
        )
    number = float(array.mean())
    if not np.isfinite(array).all():
        raise EvaluationError(f"{name} returned {number}: a score must be finite")
    return number, array if array.ndim else None
