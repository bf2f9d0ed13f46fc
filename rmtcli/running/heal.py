"""Heal a pruned network of any layout: train its new tensors on the dense network's outputs."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from rmtcli.arrays import FloatArray
from rmtcli.calibration import Calibration
from rmtcli.checkpoint import Edited
from rmtcli.errors import EvaluationError
from rmtcli.evaluation import Harness
from rmtcli.evaluation.network import build
from rmtcli.running.batches import step_size
from rmtcli.running.calibrate import CalibrationInputs
from rmtcli.running.descent import Extent
from rmtcli.running.distill import DistillationLoss, distill
from rmtcli.running.held_out import HeldOut
from rmtcli.running.norms import estimate, estimation_helps, norms_of, statistics_of
from rmtcli.running.parameters import NewParameters, keep_padding, widen

_LOGGER = logging.getLogger(__name__)


def heal(
    harness: Harness, network: Edited, settings: Calibration
) -> Mapping[str, FloatArray] | None:
    """Train the new tensors of a pruned network to reproduce the dense network's outputs.

    A part of the inputs is held out: a healing that makes the network differ more from the dense
    one on these is undone. Statistics of BatchNorms are estimated on the pruned network, before
    and after training, if that helps.

    Args:
        harness: the dense network, and how networks are built and fed.
        network: the pruned checkpoint.
        settings: the inputs, and how long to train.

    Returns:
        The new values of tensors, by name; None if healing was undone.
    """
    start, source = time.monotonic(), CalibrationInputs.read(settings, harness)
    dense, pruned = build(harness), build(harness, network)
    held_out = HeldOut(source, dense)
    _LOGGER.info("healing on %d samples: %s", len(held_out.inputs), settings.healing)
    before = held_out.distance(pruned)
    for model in (dense, pruned):
        widen(model)
    new, norms = NewParameters(dense, pruned, network), norms_of(pruned)
    keep_padding(pruned)
    batch = step_size(held_out.inputs, source.task.batch)
    if norms and not estimation_helps(pruned, norms, source, held_out):
        norms = {}
    try:
        rows = source.reading(dense).rows
        loss = DistillationLoss(dense, pruned, held_out.inputs, source.run, rows=rows)
        extent = Extent(settings.heal, settings.heal_minutes)
        distill(loss, new.trained, extent, start=start, batch=batch)
        if norms:
            estimate(pruned, norms, source, held_out.inputs)
    except EvaluationError as error:  # the network ran before: its outputs are not finite now
        _LOGGER.info("healing: %s", error)
        return None
    after = held_out.distance(pruned)
    _LOGGER.info("healing: distance on held-out inputs from %.3g to %.3g", before, after)
    if not after <= before:
        return None
    return {**new.values, **statistics_of(pruned, norms, network)}
