"""Run a network over samples and collect the moments of its layers' inputs and gradients."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rmtcli.calibration import (
    ByLayer,
    Calibration,
    Data,
    FileShare,
    GivenInputs,
    MadeInputs,
    Moments,
    parts_of,
)
from rmtcli.calibration.collect import collect
from rmtcli.calibration.starts import identity_root, label_root, softmax_root
from rmtcli.calibration.watch import Watch
from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.computing.steps import tracked
from rmtcli.errors import EvaluationError
from rmtcli.evaluation import Harness, Reading, Rows, Samples, Task
from rmtcli.evaluation.data import has_training_part
from rmtcli.evaluation.made import joined, made_samples
from rmtcli.evaluation.measures import distance
from rmtcli.evaluation.network import build, reading_of, run
from rmtcli.evaluation.pretrained import Pretrained
from rmtcli.evaluation.tasks import CausalLM, Seq2SeqLM
from rmtcli.evaluation.text import MASK, TARGET_MASK
from rmtcli.layers import Layer
from rmtcli.running.by_layer import Collected
from rmtcli.running.modules import modules_of, watchable

_LOGGER = logging.getLogger(__name__)

#: Largest number of tokens for moments and sequential fits; healing uses all tokens.
TOKENS_FITTED = 65_536
#: Least number of batches, whose differences show how far the moments can be trusted.
BATCHES = 16
#: Backward passes in all, where rows of outputs are few, and at most per row: one random cotangent
#: per row says little about the output gradients.
PASSES, MOST_DRAWS = 1200, 16
#: What backward passes start from: the root of the Fisher matrix of the outputs' distribution.
STARTS = {
    Rows.CLASSES: softmax_root,
    Rows.LABELS: label_root,
    Rows.VECTORS: identity_root,
    Rows.VALUES: identity_root,
}


def calibrate(
    harness: Harness,
    layers: Sequence[Layer],
    settings: Calibration,
) -> ByLayer[Moments]:
    """Run the network and return the moments of each layer, and of its output gradients.

    Args:
        harness: how the network is built and fed.
        layers: layers of the harness's checkpoint.
        settings: the inputs, and the moments to take.

    Returns:
        Moments by layer name, and why the other layers have none.

    Raises:
        EvaluationError: the network does not take the data, or all samples are equal.
    """
    source = CalibrationInputs.read(settings, harness)
    model = watchable(build(harness), layers)
    modules = modules_of(model, harness.checkpoint, layers)
    start = STARTS[source.reading(model).rows]
    batch, draws = source.passes(settings)
    how: dict[str, Any] = {"batch": batch, "draws": draws}
    how["watch"] = watch_of(harness.checkpoint, model)
    inputs, names = fitted_on(source.inputs), names_of(modules)
    moments = collect(model, inputs, names, source.run, start=start, **how)
    return Collected(model, modules, moments).by_layer(harness, layers, settings)


def watch_of(checkpoint: Checkpoint, model: nn.Module) -> Watch:
    """What watches a network: the positions that hold tokens, and the type of the sums."""
    return Watch(masks=lambda: masks_of(model), dtype=_summed_in(checkpoint))


def names_of(modules: Mapping[str, Sequence[str]]) -> list[str]:
    """The names of all modules of some layers, each once, in the layers' order."""
    return list(dict.fromkeys(name for some in modules.values() for name in some))


def _summed_in(checkpoint: Checkpoint) -> torch.dtype:
    """The type in which products are summed up: float32 for a network in 16 bits.

    Its weights, and so its activations, have an error of 0.4 % (bfloat16) or 0.05 % (float16), and
    the sums one of 0.0001 %.
    """
    floats = [info for info in checkpoint.infos.values() if info.counts and len(info.shape) > 1]
    half = bool(floats) and all(TYPES[info.dtype].width == 2 for info in floats)
    return torch.float32 if half else torch.float64


def _draws(task: Task, inputs: NDArray[Any]) -> int:
    """Number of backward passes per batch: several where there are few rows of outputs.

    A language model has one row per token that it predicts.
    """
    masks = {CausalLM: MASK, Seq2SeqLM: TARGET_MASK}
    own = masks.get(type(task))
    rows = len(inputs) if own is None else int(inputs[:, own].sum())
    return min(MOST_DRAWS, max(1, PASSES // rows))


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationInputs:
    """Samples to calibrate on.

    Attributes:
        inputs: shape (samples, …).
        run: computes a network's outputs; its errors name the data file.
        task: how the network is fed.
        reading: gives how a network's outputs are read.
    """

    inputs: NDArray[Any]
    run: Callable[[nn.Module, Tensor], Tensor]
    task: Task
    reading: Callable[[nn.Module], Reading]

    @staticmethod
    def read(settings: Calibration, harness: Harness) -> CalibrationInputs:
        """Read the training part of the calibration data if it has one, else its ``inputs``.

        Raises:
            UsageError: there is no such file, its ending is unknown, or the network does not read
                tokens that are made.
            EvaluationError: the file is damaged, there is no tokenizer, or all samples are equal.
        """
        source = settings.data
        assert source is not None
        samples = _read(harness, source)
        inputs = samples.inputs
        _LOGGER.info("calibrating on %d samples of %s", len(inputs), source)
        if len(inputs) < 2 or bool(np.all(inputs == inputs[:1])):
            raise EvaluationError(
                f"{source}: calibration needs samples that differ from one another"
            )

        def reading(network: nn.Module) -> Reading:
            return reading_of(harness, network, samples)

        def scores(network: nn.Module, x: Tensor) -> Tensor:
            outputs: Tensor = reading(network).scores(run(network, x, str(source)))
            return outputs

        return CalibrationInputs(inputs, scores, harness.task, reading)

    def passes(self, settings: Calibration) -> tuple[int, int]:
        """Number of samples per batch, and of backward passes per batch, for the moments."""
        inputs = fitted_on(self.inputs)
        batch = max(1, min(settings.batch, self.task.batch, len(inputs) // BATCHES))
        return batch, _draws(self.task, inputs) if settings.gradients else 0

    @torch.no_grad()
    def distance(self, dense: nn.Module, pruned: nn.Module, inputs: NDArray[Any]) -> float:
        """How much the outputs of two networks differ on some inputs, as a mean over samples.

        Args:
            dense: the dense network.
            pruned: the compressed network.
            inputs: shape (samples, …).
        """
        total, rows = 0.0, 0
        for start in tracked(
            range(0, len(inputs), self.task.batch), "comparing with the dense network"
        ):
            x = torch.from_numpy(np.array(inputs[start : start + self.task.batch]))
            before, after = (
                np.asarray(self.run(network, x).double().cpu().numpy())
                for network in (dense, pruned)
            )
            difference = distance(before, after, self.reading(dense).rows)
            total, rows = total + difference * len(before), rows + len(before)
        return total / rows


def _read(harness: Harness, source: Data) -> Samples:
    """The calibration samples: those of a file, and those that are made."""

    def read(part: Path | GivenInputs | FileShare | MadeInputs) -> Samples:
        if isinstance(part, MadeInputs):
            return made_samples(harness, part)
        return harness.read(part, "train_" if has_training_part(part) else "")

    return joined([read(part) for part in parts_of(source)])


def fitted_on(inputs: NDArray[Any]) -> NDArray[Any]:
    """The inputs for moments and fits: all arrays; of long texts, a random selection of samples."""
    if inputs.dtype.kind == "f" or inputs.ndim != 3:
        return inputs
    order = np.random.default_rng(0).permutation(len(inputs))
    tokens = np.cumsum(inputs[order, MASK].sum(1))
    return inputs[np.sort(order[: max(2, int(np.searchsorted(tokens, TOKENS_FITTED)))])]


def masks_of(model: nn.Module) -> Sequence[Tensor]:
    """Masks of the last batch's positions that hold tokens, shape (samples, positions)."""
    return model.masks if isinstance(model, Pretrained) else ()
