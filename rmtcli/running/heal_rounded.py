"""Heal a network in few bits, with the rounding in the loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from rmtcli.arrays import FloatArray
from rmtcli.calibration import Calibration
from rmtcli.checkpoint import Edited, decode, encode
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.checkpoint.packing import Packed, pack
from rmtcli.checkpoint.spill import Stored
from rmtcli.errors import EvaluationError
from rmtcli.evaluation import Harness
from rmtcli.evaluation.network import build
from rmtcli.running.batches import step_size
from rmtcli.running.calibrate import CalibrationInputs
from rmtcli.running.descent import Extent
from rmtcli.running.distill import DistillationLoss, distill
from rmtcli.running.held_out import HeldOut
from rmtcli.running.parameters import NewParameters, keep_padding, widen

_LOGGER = logging.getLogger(__name__)


def heal_rounded(harness: Harness, network: Edited, settings: Calibration) -> Edited | None:
    """Train a network in few bits to reproduce the dense network's outputs.

    Its matrices stay in few bits: each step computes with rounded values, and changes the values
    before rounding by the gradient that it finds there (Bengio, Léonard and Courville,
    arXiv:1308.3432). Scales stay. Vectors, which are not rounded, are trained as well: those of
    biases and of normalisations.

    Args:
        harness: the dense network, and how networks are built and fed.
        network: the network, with packed tensors among its edits.
        settings: the inputs, and how long to train.

    Returns:
        The network with other codes and vectors; None if it is further from the dense network, on
        inputs held out, than it was.
    """
    start, source = time.monotonic(), CalibrationInputs.read(settings, harness)
    network = _with_vectors(network)
    dense, pruned = build(harness), build(harness, network)
    held_out = HeldOut(source, dense)
    before = held_out.distance(pruned)
    for model in (dense, pruned):
        widen(model)
    new = NewParameters(dense, pruned, network)
    keep_padding(pruned)
    rounded = RoundedParameters(new, network)
    batch = step_size(held_out.inputs, source.task.batch)
    try:
        rows = source.reading(dense).rows
        loss = DistillationLoss(dense, pruned, held_out.inputs, source.run, rows=rows)
        extent = Extent(settings.heal, settings.heal_minutes)
        distill(loss, new.trained, extent, start=start, batch=batch, around=rounded.attach)
    except EvaluationError as error:  # the network ran before: its outputs are not finite now
        _LOGGER.info("healing in few bits: %s", error)
        return None
    after = held_out.distance(pruned)
    _LOGGER.info("healing in few bits: held-out distance from %.3g to %.3g", before, after)
    return rounded.applied(new.values) if after <= before else None


def _with_vectors(network: Edited) -> Edited:
    """The network with every vector of floating-point numbers among its edits."""
    vectors = {
        name: {name: network.raw(name)}
        for name in network.distinct
        if len(network.infos[name].shape) == 1
        and network.infos[name].dtype in FLOATS
        and name in network.source.infos
        and name not in network.edits
    }
    return Edited(network.source, {**network.edits, **vectors}, network.manifest)


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """The grid of one parameter.

    Attributes:
        packed: its tensor in the checkpoint.
        scales: the scale of each entry.
        latent: the values before rounding.
    """

    packed: Packed
    scales: Tensor
    latent: Tensor

    @staticmethod
    def of(packed: Packed, values: Tensor) -> _Grid:
        """The grid of a tensor in few bits, which holds these values."""
        scales = torch.from_numpy(decode(packed.scales.read()).astype(np.float32))
        each = scales.repeat_interleave(packed.group, 1)[:, : packed.entries]
        each = (each.T if packed.columnwise else each).to(values.device)
        return _Grid(packed, each.contiguous(), values.detach().clone())

    @property
    def codes(self) -> Tensor:
        """The codes that are nearest to the values."""
        half = 2 ** (self.packed.bits - 1)
        codes = (self.latent / self.scales).round().nan_to_num(0, 0, 0)
        return codes.clamp(-half, half - 1)

    @property
    def stored(self) -> Packed:
        """The tensor with these codes."""
        codes = self.codes.to(torch.int8).cpu().numpy()
        words = pack(codes.T if self.packed.columnwise else codes, self.packed.bits)
        return replace(self.packed, codes=encode(words, "I32"))


class RoundedParameters:
    """Parameters that hold rounded values, except while an optimizer changes them.

    Args:
        new: the parameters of a network's new tensors.
        network: its checkpoint.
    """

    def __init__(self, new: NewParameters, network: Edited) -> None:
        self._network = network
        self._grids: dict[nn.Parameter, _Grid] = {}
        self._names: dict[str, nn.Parameter] = {}
        for name, parameter in new.by_name.items():
            packed = network.packed(name)
            if packed is not None:
                self._names[name] = parameter
                self._grids.setdefault(parameter, _Grid.of(packed, parameter))

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Have an optimizer change the values before rounding."""
        optimizer.register_step_pre_hook(lambda *_: self._release())
        optimizer.register_step_post_hook(lambda *_: self._round())

    @torch.no_grad()
    def _release(self) -> None:
        for parameter, grid in self._grids.items():
            parameter.copy_(grid.latent)

    @torch.no_grad()
    def _round(self) -> None:
        for parameter, grid in self._grids.items():
            grid.latent.copy_(parameter)
            parameter.copy_(grid.codes * grid.scales)

    def applied(self, values: Mapping[str, FloatArray]) -> Edited:
        """The network with trained tensors.

        Args:
            values: of all new tensors, by name.
        """
        network, made = self._network, dict[nn.Parameter, Packed]()

        def stored(name: str, old: Stored) -> Stored:
            if name in self._names:
                parameter = self._names[name]
                return made.setdefault(parameter, self._grids[parameter].stored)
            return encode(values[name], old.dtype) if name in values else old

        edits = {
            old: {name: stored(name, tensor) for name, tensor in group.items()}
            for old, group in network.edits.items()
        }
        return Edited(network.source, edits, network.manifest)
