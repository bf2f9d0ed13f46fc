"""Factors made better once their ranks are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from rmtcli.calibration import Calibration
from rmtcli.checkpoint import Checkpoint
from rmtcli.evaluation import Harness, Rows
from rmtcli.evaluation.network import build
from rmtcli.layouts.module import SplitLinear, float64_of
from rmtcli.planning import LayerCalibration, LayerPlan
from rmtcli.running.calibrate import CalibrationInputs, fitted_on, mask_of, modules_of
from rmtcli.running.heal import BATCH, heal
from rmtcli.running.sequential import Step, refit
from rmtcli.spectra import Factors

NOT_SEQUENTIAL = (
    "--sequential was left out: on inputs held back, the factors fitted at once are nearer to the "
    "dense network"
)
NOT_HEALED = (
    "--heal was left out: on inputs held back, the factors that were not healed are nearer to the "
    "dense network"
)
#: Share of the inputs that is held back, to see whether a refinement helps on fresh ones.
HELD_BACK = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Refined:
    """Better factors of the same ranks.

    Attributes:
        unhealed: factors by layer name, before healing.
        factors: the same at last; equal to ``unhealed`` where nothing was healed.
        notes: what a reader must know.
    """

    unhealed: Mapping[str, Factors]
    factors: Mapping[str, Factors]
    notes: tuple[str, ...]


def refine(
    harness: Harness,
    factored: Checkpoint,
    plans: Sequence[LayerPlan],
    data: Mapping[str, LayerCalibration],
    settings: Calibration,
) -> Refined:
    """New factors of the same ranks, by what the compressed network as a whole gives.

    A part of the inputs is held back; a step after which the network is further from the dense one
    there is taken back.

    Args:
        harness: the dense network, and how to build it.
        factored: the pruned one, its layers split.
        plans: its pruned layers, with factors.
        data: what calibration found out about them.
        settings: what to do, and on which inputs.
    """
    source = CalibrationInputs.read(settings, harness)
    dense, pruned = build(harness), build(harness, factored)
    modules = modules_of(dense, harness.checkpoint, [plan.layer for plan in plans])
    held = {p.layer.name: _Held.of(dense, pruned, modules[p.layer.name], p) for p in plans}
    pair = _Pair(dense, pruned, held, source)
    notes = []
    if settings.sequential:
        steps = {
            p.layer.name: _step(p, modules[p.layer.name], data[p.layer.name])
            for p in plans
            if not _routed(modules[p.layer.name])
        }
        if not pair.helps(lambda: pair.fit(steps, min(settings.batch, source.task.batch))):
            notes.append(NOT_SEQUENTIAL)
    unhealed = pair.factors
    if settings.heal and not pair.helps(lambda: pair.learn(settings.heal)):
        notes.append(NOT_HEALED)
    return Refined(unhealed, pair.factors, tuple(notes))


class _Pair:
    """The dense network and the compressed one, whose factors are to become better.

    Args:
        dense: the dense network.
        pruned: the compressed one.
        held: its split layers, by name.
        source: inputs; some are held back.
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
        count = max(1, round(HELD_BACK * len(order)))
        self.inputs, self.fresh = (
            source.inputs[np.sort(order[count:])],
            source.inputs[order[:count]],
        )

    @property
    def factors(self) -> dict[str, Factors]:
        """The factors as they are now."""
        return {name: item.factors for name, item in self.held.items()}

    def helps(self, step: Callable[[], None]) -> bool:
        """Take a step, and take it back if it leads away from the dense network."""
        before, distance = self.factors, self._distance()
        step()
        if self._distance() <= distance:
            return True
        for name, item in self.held.items():
            item.put(before[name])
        return False

    def fit(self, steps: Mapping[str, Step], batch: int) -> None:
        """Fit layer after layer."""

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
        """Heal all layers at once."""
        for network in (self.dense, self.pruned):  # half precision is too coarse to learn in
            if next(network.parameters()).dtype in (torch.float16, torch.bfloat16):
                network.float()
        for item in self.held.values():
            item.put(item.factors)
        # Siblings share a right factor, which is to learn once.
        trained = {id(p): (p, scale) for item in self.held.values() for p, scale in item.trained}
        heal(
            self.dense,
            self.pruned,
            list(trained.values()),
            self.inputs,
            self.source.run,
            passes=passes,
            vectors=self.source.task.rows is Rows.VECTORS,
            batch=min(BATCH, max(1, self.source.task.batch // 2)),
        )
        for item in self.held.values():
            item.take()

    def _distance(self) -> float:
        """How far the compressed network is from the dense one on the inputs held back."""
        return self.source.distance(self.dense, self.pruned, self.fresh)


def _routed(modules: Sequence[str]) -> bool:
    """Whether a layer is an expert's: it reads other tokens in the compressed network."""
    return any("experts" in module.split(".") for module in modules)


def _step(plan: LayerPlan, modules: Sequence[str], data: LayerCalibration) -> Step:
    gradient = data.moments.gradient if data.gradients else None
    return Step(modules, plan.layer.load(), plan.rank, data.bias, gradient)


@dataclass(slots=True, eq=False)
class _Held:
    """A layer's factors, and the modules of the compressed network that hold them.

    Attributes:
        factors: as planned, last stored, or learned.
        modules: those modules; they share the first one's factors, and have a bias each.
        biases: the dense network's biases of the same modules.
    """

    factors: Factors
    modules: Sequence[nn.Module]
    biases: Sequence[Tensor | None]

    @staticmethod
    def of(dense: nn.Module, pruned: nn.Module, names: Sequence[str], plan: LayerPlan) -> _Held:
        """The modules of one layer, made to share their factors."""
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
        right.weight.copy_(torch.from_numpy(factors.right))
        left.weight.copy_(torch.from_numpy(factors.left))
        for module, bias in zip(self.modules, self.biases, strict=True):
            own = _maps(module)[1].bias
            if own is not None and bias is not None and factors.shift is not None:
                own.copy_(bias.double() + torch.from_numpy(factors.shift).to(bias))

    @property
    def trained(self) -> list[tuple[Tensor, Tensor]]:
        """What may learn, each with what sets its scale; a bias only where there is but one."""
        right, left = _maps(self.modules[0])
        pairs = [(right.weight, right.weight), (left.weight, left.weight)]
        if len(self.modules) == 1 and left.bias is not None:
            pairs.append((left.bias, left.weight))
        return pairs

    @torch.no_grad()
    def take(self) -> None:
        """Take over what the network has learned."""
        right, left = _maps(self.modules[0])
        bias, shift = self.biases[0], self.factors.shift
        if len(self.modules) == 1 and left.bias is not None and bias is not None:
            shift = float64_of(left.bias) - float64_of(bias)
        self.factors = Factors(float64_of(left.weight), float64_of(right.weight), shift)


def _maps(module: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """The two linear maps that stand in place of one, first the one to ``rank`` values."""
    split = cast(SplitLinear, module)  # or transformers', whose siblings hold no right factor
    return split.right, split.left
