"""Fit factors again once their ranks are known, on the network that they are part of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from rmtcli.arrays import FloatArray
from rmtcli.calibration import Calibration
from rmtcli.checkpoint import Checkpoint
from rmtcli.evaluation import Harness
from rmtcli.evaluation.network import build
from rmtcli.layers import Layer
from rmtcli.layouts.split import SplitLinear
from rmtcli.options import option
from rmtcli.planning import LayerCalibration, LayerPlan
from rmtcli.running.calibrate import CalibrationInputs, fitted_on, masks_of
from rmtcli.running.held_out import HeldOut
from rmtcli.running.modules import modules_of, watchable
from rmtcli.running.sequential import RefitStep, Target, refit
from rmtcli.spectra import Factors


def no_kernels() -> str:
    """The note on convolutions that were not fitted again."""
    return (
        f"{option('sequential')} fits linear layers again; convolutions keep their calibrated "
        f"factors, which {option('heal')} trains"
    )


class Pair(Protocol):
    """The dense network, and the compressed one with the planned factors."""

    dense: nn.Module
    pruned: nn.Module
    modules: Mapping[str, Sequence[str]]  # of each layer, in both networks

    def put(self, plan: LayerPlan, factors: Factors) -> None:
        """Store new factors in the compressed network."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Refined:
    """The result of fitting layers again.

    Attributes:
        helped: whether the factors of the compressed network are better than the planned ones.
        remarks: sentences on what was left out.
    """

    helped: bool
    remarks: tuple[str, ...] = ()


def refine(
    harness: Harness,
    pair: Pair,
    plans: Sequence[LayerPlan],
    calibrations: Mapping[str, LayerCalibration],
    settings: Calibration,
) -> Refined:
    """Fit layers again, on the outputs of the compressed layers before them.

    A part of the inputs is held out, to see whether the network differs more from the dense one on
    these.

    Args:
        harness: the dense network, and how networks are fed.
        pair: both networks; the compressed one gets the new factors.
        plans: the pruned layers.
        calibrations: results of calibration, by layer name.
        settings: the inputs.
    """
    source = CalibrationInputs.read(settings, harness)
    refitted = {
        p.layer.name: p for p in plans if not keeps_factors(p.layer, pair.modules[p.layer.name])
    }
    steps = {
        name: RefitStep(pair.modules[name], p.rank, partial(_target, p.layer, calibrations))
        for name, p in refitted.items()
    }
    held_out = HeldOut(source, pair.dense)
    before = held_out.distance(pair.pruned)

    def put(name: str, factors: Factors) -> None:
        pair.put(refitted[name], factors)

    if steps:
        inputs, batch = fitted_on(held_out.inputs), min(settings.batch, source.task.batch)
        masks = lambda: masks_of(pair.dense)  # noqa: E731
        networks = pair.dense, pair.pruned
        refit(*networks, steps, inputs, source.run, put, batch=batch, masks=masks)
    kernels = any(p.layer.view.kernel for p in plans)
    helped = held_out.distance(pair.pruned) <= before
    return Refined(helped, (no_kernels(),) if kernels else ())


def keeps_factors(layer: Layer, modules: Sequence[str]) -> bool:
    """Whether a layer keeps its calibrated factors.

    Those of a table are the best already, because its inputs stay: they are tokens. A convolution's
    patches are not cut. Routing gives the layers of an expert other tokens once compressed.
    """
    routed = any("experts" in module.split(".") for module in modules)
    return routed or bool(layer.view.kernel) or layer.view.table


def _target(layer: Layer, calibrations: Mapping[str, LayerCalibration]) -> Target:
    known = calibrations[layer.name]
    gradient = known.moments.gradient if known.gradients else None
    return Target(layer.load(), known.bias, gradient)


class Whole:
    """Both networks in memory, the compressed one with two factors in place of each weight.

    Args:
        harness: the dense network, and how networks are built.
        factored: the pruned checkpoint, with its layers split.
        plans: the pruned layers, with factors.

    Attributes:
        dense: the dense network.
        pruned: the compressed network.
        modules: the modules of each layer, in both networks.
        factors: the new factors, by layer name.
    """

    def __init__(self, harness: Harness, factored: Checkpoint, plans: Sequence[LayerPlan]) -> None:
        layers = [plan.layer for plan in plans]
        self.dense: nn.Module = watchable(build(harness), layers)
        self.pruned: nn.Module = build(harness, factored)
        self.modules: Mapping[str, Sequence[str]] = modules_of(
            self.dense, harness.checkpoint, layers
        )
        self.factors: dict[str, Factors] = {}

    @torch.no_grad()
    def put(self, plan: LayerPlan, factors: Factors) -> None:
        """Store new factors in the compressed network."""
        self.factors[plan.layer.name] = factors
        for name in self.modules[plan.layer.name]:
            right, left = _maps(self.pruned.get_submodule(name))
            for weight, values in ((right.weight, factors.right), (left.weight, factors.left)):
                weight.copy_(torch.from_numpy(np.array(values)).reshape(weight.shape))
            bias = cast(nn.Linear, self.dense.get_submodule(name)).bias
            if left.bias is not None and bias is not None and factors.shift is not None:
                left.bias.copy_(shifted(bias, factors.shift))


def shifted(bias: Tensor, shift: FloatArray) -> Tensor:
    """A bias that makes up for the mean of its layer's error, in float64."""
    return bias.double() + torch.from_numpy(shift).to(bias)


def _maps(module: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """The right and the left map of a split layer."""
    split = cast(SplitLinear, module)  # or another that has the same two attributes
    return split.right, split.left
