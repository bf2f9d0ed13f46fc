"""Try a pruned network on inputs that need no file, beside the dense one."""

from __future__ import annotations

import logging

import numpy as np
from torch import nn

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Checkpoint
from rmtcli.evaluation import Harness, Rows, Samples
from rmtcli.evaluation.chain import Chain
from rmtcli.evaluation.confidence import cosines
from rmtcli.evaluation.made import ROWS, made_for, made_of
from rmtcli.evaluation.measures import relative_change
from rmtcli.evaluation.network import build, reading_of
from rmtcli.evaluation.score import scores

_LOGGER = logging.getLogger(__name__)


class Trial:
    """Measures how far pruned networks' outputs are from the dense one's, which runs once.

    Args:
        harness: how the networks are built and fed.

    Attributes:
        inputs: what the networks run on, in words.
        most: the largest move that counts as small; docs/theory.md says how it was found.

    Raises:
        UsageError: a directory does not tell what its network is for, or transformers is missing.
        EvaluationError: the network cannot be built or fed.
    """

    def __init__(self, harness: Harness) -> None:
        model = build(harness)
        self._harness = harness
        self._samples, self.inputs = _inputs(harness, model)
        self._reading = reading_of(harness, model, self._samples)
        self.most = _most(harness, self._reading.rows)
        self._dense = self._outputs(model)

    def move(self, network: Checkpoint) -> float:
        """How far a network's outputs are from the dense one's, by :func:`distance`."""
        outputs = self._outputs(build(self._harness, network))
        moved = distance(self._dense, outputs, self._reading.rows)
        _LOGGER.info("tried on %s: the outputs move by %.3g", self.inputs, moved)
        return moved

    def _outputs(self, model: nn.Module) -> FloatArray:
        batch = self._harness.task.batch
        return np.asarray(scores(model, self._samples, self._reading, batch), np.float64)


def _inputs(harness: Harness, model: nn.Module) -> tuple[Samples, str]:
    if harness.pretrained:
        return made_for(harness.checkpoint.path, harness.task)
    assert isinstance(model, Chain)
    first = next(model.get_submodule(model.order[0]).parameters())
    return made_of((ROWS, first.shape[1])), "normal noise"


def _most(harness: Harness, rows: Rows) -> float:
    if rows is Rows.VECTORS:
        return 0.01
    return 0.1 if harness.pretrained else 0.3


def distance(before: FloatArray, after: FloatArray, rows: Rows) -> float:
    """How far outputs moved: 0 where they are equal, about 1 where they have nothing in common.

    For embeddings, 1 less the mean cosine. For other rows, the root mean square change as a share
    of the root mean square deviation from the mean row; a constant added to all class scores of a
    row is no change.

    Args:
        before: shape (rows, width), the dense network's outputs.
        after: shape (rows, width), the pruned network's.
        rows: what a row is.
    """
    if rows is Rows.VECTORS:
        return float(1 - cosines(before, after).mean())
    if rows is Rows.CLASSES:
        before, after = (x - x.mean(1, keepdims=True) for x in (before, after))
    moved = relative_change(before, after)
    return float(np.any(before != after)) if moved is None else moved
