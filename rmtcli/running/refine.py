"""Fit factors again once their ranks are known, on the network that they are part of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

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
from rmtcli.running.sequential import RefitStep, refit
from rmtcli.spectra import Factors


def no_kernels() -> str:
    """The note on convolutions that were not fitted again."""
    return (
        f"{option('sequential')} fits linear layers again; convolutions keep their calibrated "
        f"factors, which {option('heal')} trains"
    )


@dataclass(frozen=True, slots=True, eq=False)
class Refined:
    """Factors that were fitted again, of the planned ranks.

    Attributes:
        factors: factors by layer name.
        helped: whether they are better than the planned ones; otherwise they are these.
        remarks: sentences on what was left out.
    """

    factors: Mapping[str, Factors]
    helped: bool
    remarks: tuple[str, ...] = ()


def refine(
    harness: Harness,
    factored: Checkpoint,
    plans: Sequence[LayerPlan],
    calibrations: Mapping[str, LayerCalibration],
    settings: Calibration,
) -> Refined:
    """Fit layers again, on the outputs of the compressed layers before them.

    A part of the inputs is held out. If the network differs more from the dense one on these, the
    factors stay as planned.

    Args:
        harness: the dense network, and how networks are built and fed.
        factored: the pruned checkpoint, with its layers split.
        plans: the pruned layers, with factors.
        calibrations: results of calibration, by layer name.
        settings: the inputs.
    """
    source = CalibrationInputs.read(settings, harness)
    layers = [plan.layer for plan in plans]
    dense, pruned = watchable(build(harness), layers), build(harness, factored)
    modules = modules_of(dense, harness.checkpoint, layers)
    refitted = [p for p in plans if not _keeps_factors(p.layer, modules[p.layer.name])]
    held = {p.layer.name: _Held.of(dense, pruned, modules[p.layer.name], p) for p in refitted}
    held_out = HeldOut(source, dense)
    steps = {
        p.layer.name: _step(p, modules[p.layer.name], calibrations[p.layer.name]) for p in refitted
    }
    planned = {p.layer.name: p.factors for p in plans if p.factors is not None}
    before = held_out.distance(pruned)

    def put(name: str, factors: Factors) -> None:
        held[name].put(factors)

    if steps:
        inputs, batch = fitted_on(held_out.inputs), min(settings.batch, source.task.batch)
        masks = lambda: masks_of(dense)  # noqa: E731
        refit(dense, pruned, steps, inputs, source.run, put, batch=batch, masks=masks)
    helped = held_out.distance(pruned) <= before
    new = {name: item.factors for name, item in held.items()} if helped else {}
    kernels = any(p.layer.view.kernel for p in plans)
    return Refined({**planned, **new}, helped, (no_kernels(),) if kernels else ())


def _keeps_factors(layer: Layer, modules: Sequence[str]) -> bool:
    """Whether a layer keeps its calibrated factors.

    Those of a table are the best already, because its inputs stay: they are tokens. A convolution's
    patches are not cut. Routing gives the layers of an expert other tokens once compressed.
    """
    routed = any("experts" in module.split(".") for module in modules)
    return routed or bool(layer.view.kernel) or layer.view.table


def _step(plan: LayerPlan, modules: Sequence[str], calibration: LayerCalibration) -> RefitStep:
    gradient = calibration.moments.gradient if calibration.gradients else None
    return RefitStep(modules, plan.layer.load(), plan.rank, calibration.bias, gradient)


@dataclass(slots=True, eq=False)
class _Held:
    """A layer's factors, and the modules of the compressed network that hold them.

    Attributes:
        factors: the factors as planned or last stored.
        modules: these modules; they share the first one's factors, and each has its own bias.
        biases: the biases of these modules in the dense network.
    """

    factors: Factors
    modules: Sequence[nn.Module]
    biases: Sequence[Tensor | None]

    @staticmethod
    def of(dense: nn.Module, pruned: nn.Module, names: Sequence[str], plan: LayerPlan) -> _Held:
        """Find the modules of one layer, and let them share their factors."""
        assert plan.factors is not None
        modules = [pruned.get_submodule(name) for name in names]
        for module in modules[1:]:
            for mine, first in zip(_maps(module), _maps(modules[0]), strict=True):
                mine.weight = first.weight
        linears = [cast(nn.Linear, dense.get_submodule(name)) for name in names]
        return _Held(plan.factors, modules, [linear.bias for linear in linears])

    @torch.no_grad()
    def put(self, factors: Factors) -> None:
        """Store new factors in the network."""
        self.factors = factors
        right, left = _maps(self.modules[0])
        for weight, values in ((right.weight, factors.right), (left.weight, factors.left)):
            weight.copy_(torch.from_numpy(np.array(values)).reshape(weight.shape))
        for module, bias in zip(self.modules, self.biases, strict=True):
            current = _maps(module)[1].bias
            if current is not None and bias is not None and factors.shift is not None:
                current.copy_(bias.double() + torch.from_numpy(factors.shift).to(bias))


def _maps(module: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """The right and the left map of a split layer."""
    split = cast(SplitLinear, module)  # or another that has the same two attributes
    return split.right, split.left
