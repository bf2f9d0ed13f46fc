"""Refine factors once their ranks are known: sequential fits and healing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from rmtcli.calibration import Calibration
from rmtcli.checkpoint import Checkpoint
from rmtcli.errors import EvaluationError
from rmtcli.evaluation import Harness
from rmtcli.evaluation.network import build
from rmtcli.layouts.module import float64_of
from rmtcli.layouts.split import SplitLinear
from rmtcli.planning import LayerCalibration, LayerPlan
from rmtcli.running.calibrate import CalibrationInputs, fitted_on, mask_of, modules_of, watchable
from rmtcli.running.heal import BATCH, HealingLoss, heal
from rmtcli.running.sequential import RefitStep, refit
from rmtcli.spectra import Factors

_LOGGER = logging.getLogger(__name__)

#: The note on a refinement that was undone, by the name of its option.
UNDONE = (
    "--{} was undone: on held-out inputs it made the network differ more from the dense network"
)
NO_KERNELS = (
    "--sequential fits linear layers again; convolutions keep their calibrated factors, which "
    "--heal trains"
)
#: Share of the inputs that is held out to check whether a refinement helps on new inputs.
HELD_OUT = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Refined:
    """Refined factors, of the planned ranks.

    Attributes:
        unhealed: factors by layer name, before healing.
        factors: factors by layer name, after healing; equal to ``unhealed`` if nothing was healed.
        undone: the refinements that did not help and were undone: ``sequential``, ``heal``.
        remarks: sentences on what a refinement left out.
    """

    unhealed: Mapping[str, Factors]
    factors: Mapping[str, Factors]
    undone: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the report."""
        return (*self.remarks, *(UNDONE.format(name) for name in self.undone))


def refine(
    harness: Harness,
    factored: Checkpoint,
    plans: Sequence[LayerPlan],
    calibrations: Mapping[str, LayerCalibration],
    settings: Calibration,
) -> Refined:
    """Refine factors by running the compressed network as a whole; their ranks do not change.

    A part of the inputs is held out. A step that makes the network differ more from the dense one
    on these is undone.

    Args:
        harness: the dense network, and how networks are built and fed.
        factored: the pruned checkpoint, with its layers split.
        plans: the pruned layers, with factors.
        calibrations: results of calibration, by layer name.
        settings: the steps to take, and the inputs.
    """
    source = CalibrationInputs.read(settings, harness)
    layers = [plan.layer for plan in plans]
    dense, pruned = watchable(build(harness), layers), build(harness, factored)
    modules = modules_of(dense, harness.checkpoint, layers)
    held = {p.layer.name: _Held.of(dense, pruned, modules[p.layer.name], p) for p in plans}
    pair = _Pair(dense, pruned, held, source)
    undone = []
    if settings.sequential:
        steps = {
            p.layer.name: _step(p, modules[p.layer.name], calibrations[p.layer.name])
            for p in plans
            if not (_routed(modules[p.layer.name]) or p.layer.view.kernel)
        }
        if steps and not pair.helps(
            lambda: pair.fit(steps, min(settings.batch, source.task.batch))
        ):
            undone.append("sequential")
    unhealed = pair.factors
    if settings.heal and not pair.helps(lambda: pair.learn(settings.heal)):
        undone.append("heal")
    kept = settings.sequential and any(p.layer.view.kernel for p in plans)
    return Refined(unhealed, pair.factors, tuple(undone), (NO_KERNELS,) if kept else ())


class _Pair:
    """The dense network and the compressed one, whose factors are refined.

    Args:
        dense: the dense network.
        pruned: the compressed network.
        held: split layers of the compressed network, by name.
        source: the inputs, some of which are held out.
    """

    def __init__(
        self,
        dense: nn.Module,
        pruned: nn.Module,
        held: Mapping[str, _Held],
        source: CalibrationInputs,
    ) -> None:
        self.dense, self.pruned, self.held, self.source = dense, pruned, held, source
        order = np.random.default_rng(0).permutation(len(source.inputs))
        count = max(1, round(HELD_OUT * len(order)))
        self.inputs, self.held_out = (
            source.inputs[np.sort(order[count:])],
            source.inputs[order[:count]],
        )

    @property
    def factors(self) -> dict[str, Factors]:
        """The factors as they are now."""
        return {name: item.factors for name, item in self.held.items()}

    def helps(self, step: Callable[[], None]) -> bool:
        """Take a step, and undo it if it makes the network differ more from the dense one."""
        before, distance = self.factors, self._distance()
        try:
            step()
            if self._distance() <= distance:
                return True
        except EvaluationError as error:  # the network ran before: its outputs are not finite now
            _LOGGER.info("undone: %s", error)
        for name, item in self.held.items():
            item.put(before[name])
        return False

    def fit(self, steps: Mapping[str, RefitStep], batch: int) -> None:
        """Fit the layers again, one after another."""

        def put(name: str, factors: Factors) -> None:
            self.held[name].put(factors)

        refit(
            self.dense,
            self.pruned,
            steps,
            fitted_on(self.inputs),
            self.source.run,
            put,
            batch=batch,
            mask=lambda: mask_of(self.dense),
        )

    def learn(self, passes: int) -> None:
        """Heal all layers together."""
        for network in (self.dense, self.pruned):  # half precision is too coarse for training
            if next(network.parameters()).dtype in (torch.float16, torch.bfloat16):
                network.float()
        for item in self.held.values():
            item.put(item.factors)
        # Siblings share a right factor, which is trained once.
        trained = {id(p): (p, scale) for item in self.held.values() for p, scale in item.trained}
        task = self.source.task
        rows = self.source.reading(self.dense).rows
        loss = HealingLoss(self.dense, self.pruned, self.inputs, self.source.run, rows=rows)
        batch = min(BATCH, max(1, task.batch // 2))
        heal(loss, list(trained.values()), passes=passes, batch=batch)
        for item in self.held.values():
            item.take()

    def _distance(self) -> float:
        """How much the compressed network differs from the dense one on the held-out inputs."""
        return self.source.distance(self.dense, self.pruned, self.held_out)


def _routed(modules: Sequence[str]) -> bool:
    """Whether a layer belongs to an expert: routing gives it other tokens once compressed."""
    return any("experts" in module.split(".") for module in modules)


def _step(plan: LayerPlan, modules: Sequence[str], calibration: LayerCalibration) -> RefitStep:
    gradient = calibration.moments.gradient if calibration.gradients else None
    return RefitStep(modules, plan.layer.load(), plan.rank, calibration.bias, gradient)


@dataclass(slots=True, eq=False)
class _Held:
    """A layer's factors, and the modules of the compressed network that hold them.

    Attributes:
        factors: the factors as planned, last stored, or trained.
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
            weight.copy_(torch.from_numpy(values).reshape(weight.shape))
        for module, bias in zip(self.modules, self.biases, strict=True):
            current = _maps(module)[1].bias
            if current is not None and bias is not None and factors.shift is not None:
                current.copy_(bias.double() + torch.from_numpy(factors.shift).to(bias))

    @property
    def trained(self) -> list[tuple[Tensor, Tensor]]:
        """Parameters to train, each with the tensor that sets its scale; a bias only if not shared.

        Modules that share factors have different biases, so these are not trained.
        """
        right, left = _maps(self.modules[0])
        pairs = [(right.weight, right.weight), (left.weight, left.weight)]
        if len(self.modules) == 1 and left.bias is not None:
            pairs.append((left.bias, left.weight))
        return pairs

    @torch.no_grad()
    def take(self) -> None:
        """Read the trained factors from the network."""
        right, left = _maps(self.modules[0])
        bias, shift = self.biases[0], self.factors.shift
        if len(self.modules) == 1 and left.bias is not None and bias is not None:
            shift = float64_of(left.bias) - float64_of(bias)
        a, b = (float64_of(weight.flatten(1)) for weight in (left.weight, right.weight))
        self.factors = Factors(a, b, shift)


def _maps(module: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """The right and the left map of a split layer."""
    split = cast(SplitLinear, module)  # or another that has the same two attributes
    return split.right, split.left
