"""Try a pruned network on inputs that need no file, beside the dense one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator

import numpy as np
import torch
from torch import nn

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Checkpoint
from rmtcli.errors import EvaluationError
from rmtcli.evaluation import Harness, Rows, Samples
from rmtcli.evaluation.chain import Chain
from rmtcli.evaluation.confidence import cosines
from rmtcli.evaluation.made import LINES, ROWS, SIDES, TOKENS, made_for, made_of
from rmtcli.evaluation.measures import relative_change
from rmtcli.evaluation.network import build, reading_of, run
from rmtcli.evaluation.score import scores
from rmtcli.layers import Layer
from rmtcli.layouts.pivoted_module import is_linear
from rmtcli.running.modules import modules_of

_LOGGER = logging.getLogger(__name__)


class Trial:
    """Measures how far pruned networks' outputs are from the dense one's, which runs once.

    Args:
        harness: how the networks are built and fed.

    Attributes:
        harness: how the networks are built and fed.
        inputs: what the networks run on, in words.
        most: the largest move that counts as small; docs/theory.md says how it was found.

    Raises:
        UsageError: a directory does not tell what its network is for, or transformers is missing.
        EvaluationError: the network cannot be built or fed.
    """

    def __init__(self, harness: Harness) -> None:
        self.harness, self._model = harness, build(harness)
        self._samples, self.inputs = _inputs(harness, self._model)
        self._reading = reading_of(harness, self._model, self._samples)
        inputs = self._samples.inputs
        flat = inputs.dtype.kind == "f" and inputs.ndim == 2
        self.most = _most(self._reading.rows, flat=flat)
        self._dense = self._outputs(self._model)

    def moves(
        self,
        network: Checkpoint,
        layers: Collection[Layer],
        without: Callable[[Collection[str]], Checkpoint],
    ) -> Callable[[Collection[str]], float]:
        """A function that says how far outputs move if some of the layers stay dense.

        The pruned network is built once, and the modules of layers that stay dense are exchanged
        for the dense network's. Where a layer has no module of its own, a network is built for
        every answer.

        Args:
            network: the network with all of these layers pruned.
            layers: the layers.
            without: gives the network in which layers of some names stay dense.
        """
        modules = modules_of(self._model, self.harness.checkpoint, list(layers))
        if not all(modules.values()):
            return lambda spared: self.move(build(self.harness, without(spared)))
        dense, pruned = _by_name(self._model), build(self.harness, network)
        split = _by_name(pruned)
        split_names: dict[int, list[str]] = {}
        for name, module in split.items():
            split_names.setdefault(id(module), []).append(name)

        def move(spared: Collection[str]) -> float:
            for layer, own in modules.items():
                for first in own:
                    module = (dense if layer in spared else split)[first]
                    for name in split_names[id(split[first])]:
                        parent, _, leaf = name.rpartition(".")
                        setattr(pruned.get_submodule(parent), leaf, module)
            return self.move(pruned)

        return move

    def move(self, model: nn.Module) -> float:
        """How far a network's outputs are from the dense one's, by :func:`distance`."""
        moved = distance(self._dense, self._outputs(model), self._reading.rows)
        _LOGGER.info("tried on %s: the outputs move by %.3g", self.inputs, moved)
        return moved

    def _outputs(self, model: nn.Module) -> FloatArray:
        batch = self.harness.task.batch
        return np.asarray(scores(model, self._samples, self._reading, batch), np.float64)


def _by_name(model: nn.Module) -> dict[str, nn.Module]:
    return dict(model.named_modules(remove_duplicate=False))


def _inputs(harness: Harness, model: nn.Module) -> tuple[Samples, str]:
    """Inputs that the network takes, and what they are in words.

    Raises:
        EvaluationError: none of those that its first layer suggests.
    """
    if harness.transformers:
        return made_for(harness)
    reason = "its first layer does not say what its inputs are"
    for shape, vocabulary in shapes_of(model):
        samples, words = made_of(shape, vocabulary)
        try:
            with torch.inference_mode():
                run(model, torch.from_numpy(samples.inputs[:2]), words)
            return samples, words
        except EvaluationError as error:
            reason = str(error)
    raise EvaluationError(f"{harness.description}: {reason}")


def shapes_of(model: nn.Module) -> Iterator[tuple[tuple[int, ...], int]]:
    """Shapes of inputs that a network may take, with the size of a vocabulary or 0 for numbers.

    The first layer says the width of rows, the channels of images or sounds, or the vocabulary.
    """
    first = next((m for m in model.modules() if next(m.parameters(False), None) is not None), None)
    if isinstance(model, Chain):
        first = model.get_submodule(model.order[0])
    if first is not None and is_linear(first):
        width = first.weight.shape[1]
        yield (ROWS, width), 0
        yield (LINES, TOKENS, width), 0
    elif isinstance(first, nn.LSTM | nn.GRU | nn.RNN):
        yield (LINES, TOKENS, first.input_size), 0
    elif isinstance(first, nn.Embedding):
        yield (LINES, TOKENS), first.num_embeddings
    elif isinstance(first, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        for side in SIDES:
            yield (LINES, first.in_channels, *[side] * len(first.kernel_size)), 0


def _most(rows: Rows, *, flat: bool) -> float:
    """The largest move that counts as small; more for rows of noise, which move outputs more."""
    if rows is Rows.VECTORS:
        return 0.01
    return 0.3 if flat else 0.1


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
