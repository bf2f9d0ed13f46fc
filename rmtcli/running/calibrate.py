"""Running the network over samples to see what its layers see."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rmtcli.calibration import Calibration, Moments
from rmtcli.calibration.collect import collect
from rmtcli.calibration.moments import merge
from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.names import module_of
from rmtcli.errors import EvaluationError
from rmtcli.evaluation import Harness, Rows, Task
from rmtcli.evaluation.confidence import cosines, kullback_leibler
from rmtcli.evaluation.data import has_training_part
from rmtcli.evaluation.network import build, run
from rmtcli.evaluation.pretrained import Pretrained
from rmtcli.evaluation.text import MASK
from rmtcli.layers import Layer
from rmtcli.layouts.module import prefix_of

_LOGGER = logging.getLogger(__name__)

#: Tokens that moments and sequential fits are taken from at most. Healing sees all.
TOKENS_FITTED = 65_536


def calibrate(
    harness: Harness, layers: Sequence[Layer], settings: Calibration
) -> dict[str, Moments]:
    """Moments of each layer's inputs and output gradients, by the layer's name.

    A layer that no input reached is missing.

    Args:
        harness: how the network is built and fed.
        layers: layers of the harness's checkpoint.
        settings: the inputs, and the moments to take.

    Raises:
        EvaluationError: data that the network does not take, or that is one row over and over.
    """
    source = CalibrationInputs.read(settings, harness)
    _LOGGER.info("calibrating on %d samples of %s", len(source.inputs), settings.data)
    model = build(harness)
    modules = modules_of(model, harness.checkpoint, layers)
    found = collect(
        model,
        fitted_on(source.inputs),
        [name for names in modules.values() for name in names],
        source.run,
        batch=min(settings.batch, source.task.batch),
        gradients=settings.gradients,
        vectors=source.task.rows is Rows.VECTORS,
        mask=lambda: mask_of(model),
    )
    seen = {name: [found[m] for m in names if m in found] for name, names in modules.items()}
    merged = {name: merge(parts) for name, parts in seen.items() if parts}
    # Without gradients where they were asked for, nothing is done with a layer's outputs.
    return {
        name: moments
        for name, moments in merged.items()
        if moments.gradient is not None or not settings.gradients
    }


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationInputs:
    """Samples to calibrate on.

    Attributes:
        inputs: shape (samples, …).
        run: gives a network's outputs, with the data's name in its errors.
        task: what the network is for.
    """

    inputs: NDArray[Any]
    run: Callable[[nn.Module, Tensor], Tensor]
    task: Task

    @staticmethod
    def read(settings: Calibration, harness: Harness) -> CalibrationInputs:
        """The file's training part if it has one, else its inputs.

        Raises:
            EvaluationError: it is one row over and over.
        """
        source = settings.data
        assert source is not None
        part = "train_" if has_training_part(source) else ""
        inputs = harness.read(source, part).inputs
        if len(inputs) < 2 or bool(np.all(inputs == inputs[:1])):
            raise EvaluationError(
                f"{source}: calibration needs samples that differ from one another"
            )
        where = str(source)
        return CalibrationInputs(inputs, lambda network, x: run(network, x, where), harness.task)

    @torch.no_grad()
    def distance(self, dense: nn.Module, pruned: nn.Module, inputs: NDArray[Any]) -> float:
        """How far a network is from the dense one on some inputs.

        Mean Kullback–Leibler divergence of class probabilities, or what the mean cosine of vectors
        is short of 1.
        """
        total, rows = 0.0, 0
        for start in range(0, len(inputs), self.task.batch):
            x = torch.from_numpy(np.array(inputs[start : start + self.task.batch]))
            before, after = (
                np.asarray(self.run(network, x).double().cpu().numpy())
                for network in (dense, pruned)
            )
            if self.task.rows is Rows.VECTORS:
                apart = 1 - float(cosines(before, after).mean())
            else:
                apart = kullback_leibler(before, after)
            total, rows = total + apart * len(before), rows + len(before)
        return total / rows


def fitted_on(inputs: NDArray[Any]) -> NDArray[Any]:
    """Arrays as they are; of much text, samples drawn at random."""
    if inputs.dtype.kind == "f" or inputs.ndim != 3:
        return inputs
    order = np.random.default_rng(0).permutation(len(inputs))
    tokens = np.cumsum(inputs[order, MASK].sum(1))
    return inputs[np.sort(order[: max(2, int(np.searchsorted(tokens, TOKENS_FITTED)))])]


def mask_of(model: nn.Module) -> Tensor | None:
    """Which positions of the last batch hold tokens; None where all count."""
    return model.mask if isinstance(model, Pretrained) else None


def modules_of(
    model: nn.Module, checkpoint: Checkpoint, layers: Sequence[Layer]
) -> Mapping[str, list[str]]:
    """For each layer's name, the model's linear modules that hold its weight, each object once."""
    if isinstance(model, Pretrained):
        every = [module_of(name) for layer in layers for name in (layer.name, *layer.tied)]
        places = model.modules_of(every)
    else:
        prefix = prefix_of(model, checkpoint)
        places = {
            f"{prefix}{name}": name
            for name, module in model.named_modules(remove_duplicate=False)
            if isinstance(module, nn.Linear)
        }
    modules = dict(model.named_modules(remove_duplicate=False))

    def distinct(names: Sequence[str]) -> list[str]:
        found: dict[int, str] = {}
        for name in names:
            module = places.get(module_of(name))
            if module is not None:
                found.setdefault(id(modules[module]), module)
        return list(found.values())

    return {layer.name: distinct((layer.name, *layer.tied)) for layer in layers}
