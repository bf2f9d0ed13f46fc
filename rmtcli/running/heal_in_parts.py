"""Heal the factors of a network block by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from rmtcli.calibration import Calibration, Folder
from rmtcli.evaluation import Harness
from rmtcli.evaluation.outline import Outline
from rmtcli.layouts.module import float64_of
from rmtcli.layouts.split import as_linear
from rmtcli.planning import LayerPlan
from rmtcli.running.heal_blocks import Descent, heal_blocks
from rmtcli.running.parameters import scale_of
from rmtcli.running.refine import keeps_factors
from rmtcli.running.refine_in_parts import InParts
from rmtcli.spectra import Factors


def heal_in_parts(
    harness: Harness,
    pair: InParts,
    plans: Sequence[LayerPlan],
    settings: Calibration,
    folder: Folder,
) -> bool:
    """Train the factors of one block after another to reproduce the dense blocks' outputs.

    Layers outside of blocks, and those of which no two linear layers can take the place, keep their
    factors.

    Args:
        harness: the dense network, and how networks are fed.
        pair: both networks; the compressed one gets the new factors.
        plans: the pruned layers.
        settings: the inputs, and how long to train.
        folder: takes the states.

    Returns:
        Whether the network differs no more from the dense one on inputs that are held out.

    Raises:
        NotInPartsError: the network cannot be run block by block.
    """
    return heal_blocks(harness, TrainedFactors(pair, plans), settings, folder)


class TrainedFactors:
    """The factors of the layers of each block.

    Args:
        pair: the networks.
        plans: the pruned layers.
    """

    def __init__(self, pair: InParts, plans: Sequence[LayerPlan]) -> None:
        self._pair = pair
        self._plans = [plan for plan in plans if self._as_factors(plan)]

    @property
    def outlines(self) -> tuple[Outline, Outline]:
        """The dense network and the compressed one."""
        return self._pair.outlines

    def has(self, block: str) -> bool:
        """Whether the factors of a layer are trained with a block."""
        return bool(self._inside(block))

    def train(self, block: str, descent: Descent) -> None:
        """Train the maps of a block, and store them, unless they are not finite."""
        maps = [_Maps(self._pair, plan) for plan in self._inside(block)]
        trained = [pair for item in maps for pair in item.trained]
        with _in_place(maps, self._pair.pruned):
            descent(trained, lambda optimizer: None)
        if all(bool(p.isfinite().all()) for p, _ in trained):
            for item in maps:
                self._pair.put(item.plan, item.factors)

    def _inside(self, block: str) -> Sequence[LayerPlan]:
        """The layers whose modules are all in a block."""
        names: Mapping[str, Sequence[str]] = self._pair.modules
        return [
            plan
            for plan in self._plans
            if all(x == block or x.startswith(f"{block}.") for x in names[plan.layer.name])
        ]

    def _as_factors(self, plan: LayerPlan) -> bool:
        """Whether two linear layers can take the place of a layer's modules."""
        names = self._pair.modules[plan.layer.name]
        if not names or plan.layer.view.rows is not None or keeps_factors(plan.layer, names):
            return False
        modules = map(self._pair.dense.get_submodule, names)
        return all(as_linear(module) is not None for module in modules)


class _Maps:
    """The two maps of a layer while they are trained, in float32.

    Args:
        pair: the networks.
        plan: the layer.
    """

    def __init__(self, pair: InParts, plan: LayerPlan) -> None:
        self.plan, self.names = plan, pair.modules[plan.layer.name]
        factors = pair.factors(plan)
        first = cast(nn.Linear, pair.dense.get_submodule(self.names[0]))
        old = [cast(nn.Linear, pair.dense.get_submodule(name)).bias for name in self.names]
        device = next(first.parameters()).device

        def parameter(values: np.ndarray) -> nn.Parameter:
            return nn.Parameter(torch.from_numpy(np.array(values, np.float32)).to(device))

        self._left, self._right = parameter(factors.left), parameter(factors.right)
        self._shift = None if factors.shift is None else parameter(factors.shift)
        self._biases = dict(zip(self.names, old, strict=True))

    @property
    def trained(self) -> list[tuple[nn.Parameter, float]]:
        """The parameters, each with the scale of its learning rate."""
        maps = [(p, scale_of(p)) for p in (self._left, self._right) if p.numel()]
        if self._shift is None or all(x is None for x in self._biases.values()):
            return maps
        own = min((scale for _, scale in maps), default=scale_of(self._shift))
        return [*maps, (self._shift, own)]

    @property
    def factors(self) -> Factors:
        """The maps as they are now."""
        shift = None if self._shift is None else float64_of(self._shift)
        return Factors(float64_of(self._left), float64_of(self._right), shift)

    def run(self, name: str, x: Tensor) -> Tensor:
        """What a module of the layer computes."""
        bias: Tensor | None = self._biases[name]
        if bias is not None and self._shift is not None:
            bias = bias + self._shift
        return nn.functional.linear(nn.functional.linear(x, self._right), self._left, bias)


@contextmanager
def _in_place(maps: Sequence[_Maps], model: nn.Module) -> Iterator[None]:
    """Let maps compute in the place of the modules of their layers."""
    modules = [(model.get_submodule(name), item, name) for item in maps for name in item.names]
    for module, item, name in modules:
        module.__dict__["forward"] = lambda x, item=item, name=name: item.run(name, x)
    try:
        yield
    finally:
        for module, _, _ in modules:
            del module.__dict__["forward"]
