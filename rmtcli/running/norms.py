"""Statistics of BatchNorms, estimated on a pruned network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Edited
from rmtcli.checkpoint.names import member
from rmtcli.evaluation.pretrained import Pretrained
from rmtcli.layouts.module import float64_of
from rmtcli.layouts.wrapped import naming
from rmtcli.running.calibrate import CalibrationInputs
from rmtcli.running.held_out import HeldOut

#: Number of samples on which statistics are estimated.
NORMED = 4_096


def norms_of(model: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorms of a plain module that hold statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and not isinstance(model, Pretrained)
    }


def estimation_helps(
    model: nn.Module,
    norms: Mapping[str, _BatchNorm],
    source: CalibrationInputs,
    held_out: HeldOut,
) -> bool:
    """Estimate the statistics of BatchNorms, and undo it if the network gets worse by it."""
    before = held_out.distance(model)
    old = {name: deepcopy(norm.state_dict()) for name, norm in norms.items()}
    estimate(model, norms, source, held_out.inputs)
    if held_out.distance(model) <= before:
        return True
    for name, norm in norms.items():
        norm.load_state_dict(old[name])
    return False


@torch.no_grad()
def estimate(
    model: nn.Module,
    norms: Mapping[str, _BatchNorm],
    source: CalibrationInputs,
    inputs: NDArray[Any],
) -> None:
    """Estimate the statistics of BatchNorms as means over batches of inputs."""
    order = np.random.default_rng(0).permutation(len(inputs))[:NORMED]
    step = max(2, source.task.batch)
    with _averaging(list(norms.values())):
        for start in range(0, max(1, len(order) - 1), step):
            batch = inputs[np.sort(order[start : start + step])]
            source.run(model, torch.from_numpy(batch))


@contextmanager
def _averaging(norms: list[_BatchNorm]) -> Iterator[None]:
    """Let BatchNorms take the mean of the statistics of batches to come."""
    old = [(norm.momentum, deepcopy(norm.num_batches_tracked)) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, old, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
            norm.eval()


def statistics_of(
    model: nn.Module, norms: Mapping[str, _BatchNorm], network: Edited
) -> dict[str, FloatArray]:
    """The statistics of a network's BatchNorms, by the names of its checkpoint."""
    if not norms:
        return {}
    values = {
        member(name, key): float64_of(getattr(norm, key))
        for name, norm in norms.items()
        for key in ("running_mean", "running_var")
    }
    own = naming(model, network)
    keys = {name: own(name) for name in network.infos}
    return {name: values[key] for name, key in keys.items() if key is not None and key in values}
