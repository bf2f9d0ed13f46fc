"""Running the network over samples to see what its layers see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rmtcli.calibration.base import Calibration
from rmtcli.calibration.collect import collect
from rmtcli.calibration.moments import Moments, merge
from rmtcli.checkpoint import Checkpoint
from rmtcli.errors import EvaluationError
from rmtcli.evaluation.base import Evaluation
from rmtcli.evaluation.data import has_training_part, read_samples
from rmtcli.evaluation.network import build, run
from rmtcli.layers import Layer
from rmtcli.lowrank import prefix_of
from rmtcli.names import module_of

#: Samples that run at a time where nothing is collected.
BATCH = 1024


def calibrate(
    checkpoint: Checkpoint, layers: Sequence[Layer], evaluation: Evaluation, settings: Calibration
) -> dict[str, Moments]:
    """What each layer sees, by the layer's name; one that no input reached is missing.

    Raises:
        EvaluationError: data that the network does not take, or that is one row over and over.
    """
    source = CalibrationInputs.read(settings)
    model = build(evaluation, checkpoint)
    modules = modules_of(model, checkpoint, layers)
    found = collect(
        model,
        source.inputs,
        [name for names in modules.values() for name in names],
        source.run,
        batch=settings.batch,
        gradients=settings.gradients,
    )
    seen = {name: [found[m] for m in names if m in found] for name, names in modules.items()}
    return {name: merge(parts) for name, parts in seen.items() if parts}


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationInputs:
    """Samples to calibrate on.

    Attributes:
        inputs: shape (samples, …).
        run: gives a network's class scores, with the data's name in its errors.
    """

    inputs: NDArray[Any]
    run: Callable[[nn.Module, Tensor], Tensor]

    @staticmethod
    def read(settings: Calibration) -> CalibrationInputs:
        """The file's training part if it has one, else its inputs.

        Raises:
            EvaluationError: it is one row over and over.
        """
        source = settings.data
        assert source is not None
        samples = read_samples(source, "train_" if has_training_part(source) else "")
        inputs = samples.inputs
        if len(inputs) < 2 or bool(np.all(inputs == inputs[:1])):
            raise EvaluationError(
                f"{source}: calibration needs samples that differ from one another"
            )
        return CalibrationInputs(inputs, lambda network, x: run(network, x, str(Path(source))))

    @torch.no_grad()
    def outputs(self, model: nn.Module, inputs: NDArray[Any]) -> NDArray[np.floating]:
        """A network's class scores for some inputs, shape (samples, classes), in float64."""
        chunks = np.array_split(inputs, -(-len(inputs) // BATCH))
        found = [self.run(model, torch.from_numpy(chunk)).double().cpu() for chunk in chunks]
        return np.asarray(torch.cat(found).numpy())


def modules_of(
    model: nn.Module, checkpoint: Checkpoint, layers: Sequence[Layer]
) -> Mapping[str, list[str]]:
    """For each layer's name, the model's linear modules that hold its weight, each object once."""
    prefix = prefix_of(model, checkpoint)
    modules = dict(model.named_modules(remove_duplicate=False))

    def distinct(names: Sequence[str]) -> list[str]:
        found: dict[int, str] = {}
        for name in names:
            module = module_of(name.removeprefix(prefix)) if name.startswith(prefix) else None
            if module is not None and isinstance(modules.get(module), nn.Linear):
                found.setdefault(id(modules[module]), module)
        return list(found.values())

    return {layer.name: distinct((layer.name, *layer.aliases)) for layer in layers}
