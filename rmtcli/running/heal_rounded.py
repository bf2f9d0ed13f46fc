"""Heal a network in few bits, with the rounding in the loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from torch import nn

from rmtcli.calibration import Calibration
from rmtcli.checkpoint import Edited, encode
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.checkpoint.packing import Packed
from rmtcli.checkpoint.spill import Stored
from rmtcli.errors import EvaluationError
from rmtcli.evaluation import Harness
from rmtcli.evaluation.network import build
from rmtcli.layouts.module import float64_of
from rmtcli.running.batches import step_size
from rmtcli.running.calibrate import CalibrationInputs
from rmtcli.running.descent import Extent
from rmtcli.running.distill import DistillationLoss, distill
from rmtcli.running.grids import Grids
from rmtcli.running.held_out import HeldOut
from rmtcli.running.parameters import NewParameters, keep_padding, widen

_LOGGER = logging.getLogger(__name__)


def heal_rounded(harness: Harness, network: Edited, settings: Calibration) -> Edited | None:
    """Train a network in few bits to reproduce the dense network's outputs.

    Its matrices stay in few bits: each step computes with rounded values, and changes the values
    before rounding by the gradient that it finds there. Scales stay. Vectors, which are not
    rounded, are trained as well: those of biases and of normalisations.

    Args:
        harness: the dense network, and how networks are built and fed.
        network: the network, with packed tensors among its edits.
        settings: the inputs, and how long to train.

    Returns:
        The network with other codes and vectors; None if it is further from the dense network, on
        inputs held out, than it was.
    """
    start, source = time.monotonic(), CalibrationInputs.read(settings, harness)
    network = with_vectors(network)
    dense, pruned = build(harness), build(harness, network)
    held_out = HeldOut(source, dense)
    before = held_out.distance(pruned)
    for model in (dense, pruned):
        widen(model)
    new = NewParameters(dense, pruned, network)
    keep_padding(pruned)
    grids = Grids(packed_of(new.by_name, network))
    batch = step_size(held_out.inputs, source.task.batch)
    try:
        rows = source.reading(dense).rows
        loss = DistillationLoss(dense, pruned, held_out.inputs, source.run, rows=rows)
        extent = Extent(settings.heal, settings.heal_minutes)
        distill(loss, new.trained, extent, start=start, batch=batch, around=grids.attach)
    except EvaluationError as error:  # the network ran before: its outputs are not finite now
        _LOGGER.info("healing in few bits: %s", error)
        return None
    after = held_out.distance(pruned)
    _LOGGER.info("healing in few bits: held-out distance from %.3g to %.3g", before, after)
    return applied(network, stored_of(new.by_name, network, grids)) if after <= before else None


def with_vectors(network: Edited) -> Edited:
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


def packed_of(
    parameters: Mapping[str, nn.Parameter], network: Edited
) -> Mapping[nn.Parameter, Packed]:
    """The tensors in few bits, by parameter."""
    tensors = {p: network.packed(name) for name, p in parameters.items()}
    return {p: packed for p, packed in tensors.items() if packed is not None}


def stored_of(
    parameters: Mapping[str, nn.Parameter], network: Edited, grids: Grids
) -> Mapping[str, Stored]:
    """The tensors that hold trained parameters; those of one parameter are one tensor.

    Args:
        parameters: by the names of the checkpoint.
        network: the checkpoint.
        grids: of those in few bits.
    """
    names = {p: name for name, p in parameters.items()}
    made = {
        p: encode(float64_of(p), network.infos[name].dtype)
        if network.packed(name) is None
        else grids.stored(p)
        for p, name in names.items()
    }
    return {name: made[p] for name, p in parameters.items()}


def applied(network: Edited, new: Mapping[str, Stored]) -> Edited:
    """The network with tensors in the place of some of its new ones, by name."""
    edits = {
        old: {name: new.get(name, tensor) for name, tensor in group.items()}
        for old, group in network.edits.items()
    }
    return Edited(network.source, edits, network.manifest)
