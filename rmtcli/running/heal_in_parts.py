"""Heal a network block by block, so that memory holds what training one block takes.

For each block in order, its low-rank maps are trained on the mean squared distance of its outputs
from those of the dense block. The dense block reads what it reads in the dense network, and the
block that is trained what it reads in the compressed one, whose blocks before it are trained. The
states before a block, of both networks, are files.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from rmtcli.calibration import Calibration, Folder
from rmtcli.calibration.watch import rows_of
from rmtcli.computing.freed import give_back
from rmtcli.errors import EvaluationError
from rmtcli.evaluation import Harness
from rmtcli.layouts.module import float64_of
from rmtcli.layouts.split import as_linear
from rmtcli.planning import LayerPlan
from rmtcli.running.batches import step_size
from rmtcli.running.block_run import BlockRun
from rmtcli.running.calibrate import CalibrationInputs, masks_of
from rmtcli.running.descent import RATE, Extent, Schedule, descend
from rmtcli.running.find_chains import find_chains
from rmtcli.running.held_out import HeldOut
from rmtcli.running.parameters import scale_of
from rmtcli.running.refine import keeps_factors
from rmtcli.running.refine_in_parts import InParts
from rmtcli.running.states import States
from rmtcli.spectra import Factors

_LOGGER = logging.getLogger(__name__)

#: Number of samples on which chains are found and tried.
_SAMPLES = 4
#: Share of the time that the dense network's states may take; the compressed one's take as much.
#: Where time limits the training, only as many batches take part.
_STATES = 1 / 8
#: Number of batches by which this time is estimated.
_TIMED = 3
#: With fewer steps per block than this, the rate is lower in proportion.
_SETTLED = 100


def heal_in_parts(
    harness: Harness,
    pair: InParts,
    plans: Sequence[LayerPlan],
    settings: Calibration,
    folder: Folder,
) -> bool:
    """Train the factors of one block after another to reproduce the dense blocks' outputs.

    A part of the inputs is held out. Layers outside of blocks, and those of which no two linear
    layers can take the place, keep their factors. A limit of time is divided evenly among the
    blocks; passes are those that each block makes.

    Args:
        harness: the dense network, and how networks are fed.
        pair: both networks; the compressed one gets the new factors.
        plans: the pruned layers.
        settings: the inputs, and how long to train.
        folder: takes the states.

    Returns:
        Whether the network differs no more from the dense one on the inputs held out.

    Raises:
        NotInPartsError: the network cannot be run block by block.
    """
    start, source = time.monotonic(), CalibrationInputs.read(settings, harness)
    held_out = HeldOut(source, pair.dense)
    _LOGGER.info("healing by blocks on %d samples: %s", len(held_out.inputs), settings.healing)
    before = held_out.distance(pair.pruned)
    healing = _Healing(pair, plans, source, held_out, States(folder))
    try:
        healing.run(Extent(settings.heal, settings.heal_minutes), start)
    except EvaluationError as error:  # the network ran before: its outputs are not finite now
        _LOGGER.info("healing: %s", error)
        return False
    after = held_out.distance(pair.pruned)
    _LOGGER.info("healing: distance on held-out inputs from %.3g to %.3g", before, after)
    return after <= before


class _Healing:
    """Both networks, block by block.

    Args:
        pair: the networks.
        plans: the pruned layers.
        source: the calibration inputs.
        held_out: divides them.
        states: keeps the states between blocks.
    """

    def __init__(
        self,
        pair: InParts,
        plans: Sequence[LayerPlan],
        source: CalibrationInputs,
        held_out: HeldOut,
        states: States,
    ) -> None:
        inputs, run = held_out.inputs, source.run
        few = torch.from_numpy(np.array(inputs[:_SAMPLES]))
        chains = find_chains(pair.dense, run, few, (), pair.outlines[0]).chains
        self._pair, self._chains = pair, chains
        self._dense, self._pruned = (
            BlockRun(name, outline, chains, run, states)
            for name, outline in zip(("dense", "pruned"), pair.outlines, strict=True)
        )
        batch = step_size(inputs, source.task.batch)
        parts = [x.copy() for x in np.split(inputs, range(batch, len(inputs), batch))]
        order = np.random.default_rng(0).permutation(len(parts))
        self._batches = {int(b): torch.from_numpy(parts[b]) for b in order}
        self._per_pass = len(parts)
        self._masks: dict[int, Sequence[Tensor]] = {}
        self._plans = {
            (number, i): [plan for plan in plans if self._inside(plan, block)]
            for number, chain in enumerate(chains)
            for i, block in enumerate(chain.blocks)
        }

    def run(self, extent: Extent, start: float) -> None:
        """Train one block after another.

        Args:
            extent: how long.
            start: value of ``time.monotonic`` from which on time counts.
        """
        wanted = [key for key, plans in self._plans.items() if plans]
        end, last = start + 60 * extent.minutes, wanted[-1] if wanted else (-1, -1)
        if wanted and extent.minutes:
            self._shorten((end - time.monotonic()) / len(wanted))
        for number, chain in enumerate(self._chains):
            if number > last[0]:
                break
            self._enter(number)
            for i in range(len(chain.blocks)):
                began = time.monotonic()
                self._dense.forward(number, i, self._batches)
                if self._plans[number, i]:
                    left = sum(key >= (number, i) for key in wanted)
                    minutes = (end - began) / 60 / left if extent.minutes else 0.0
                    if minutes > 0 or not extent.minutes:
                        self._train(number, i, Extent(extent.passes, minutes), began)
                if (number, i) == last:
                    break
                self._pruned.forward(number, i, self._batches)
                for network in (self._dense, self._pruned):
                    network.drop(number, i)
                give_back()

    def _inside(self, plan: LayerPlan, block: str) -> bool:
        """Whether a layer's maps are trained with a block."""
        names = self._pair.modules[plan.layer.name]
        if not names or plan.layer.view.rows is not None or keeps_factors(plan.layer, names):
            return False
        own = all(name == block or name.startswith(f"{block}.") for name in names)
        modules = map(self._pair.dense.get_submodule, names)
        return own and all(as_linear(module) is not None for module in modules)

    def _enter(self, number: int) -> None:
        """Run what is before a chain."""
        for b, inputs in self._batches.items():
            self._dense.enter(number, b, inputs)
            self._masks[b] = masks_of(self._pair.dense)
            self._pruned.enter(number, b, inputs)

    def _shorten(self, seconds: float) -> None:
        """Keep as many batches as have their states in time.

        Args:
            seconds: the time for a block.
        """
        some = dict(list(self._batches.items())[:_TIMED])
        began = time.monotonic()
        for b, inputs in some.items():
            self._dense.enter(0, b, inputs)
        self._dense.forward(0, 0, some)
        each = (time.monotonic() - began) / len(some)
        count = max(len(some), int(_STATES * seconds / each))
        self._batches = dict(list(self._batches.items())[:count])
        _LOGGER.info("healing: %d batches", len(self._batches))

    def _train(self, number: int, i: int, extent: Extent, start: float) -> None:
        """Train the maps of a block, and store them in the compressed network."""
        name, plans = self._chains[number].blocks[i], self._plans[number, i]
        maps = [_Maps(self._pair, plan) for plan in plans]
        trained = [pair for item in maps for pair in item.trained]
        schedule = Schedule(extent, self._per_pass, start, f"healing {name}", _SETTLED)

        def loss(b: int) -> Tensor:
            output = self._pruned.run(number, i, b)[0]
            target, masks = self._dense.state(number, i + 1, b), self._masks[b]
            wanted = rows_of(target, masks)
            scale = (wanted - wanted.mean(0)).square().mean().clamp_min(1e-30)
            return (rows_of(output, masks) - wanted).square().mean() / scale

        self._pruned.model.requires_grad_(False)
        with self._pruned.holding(number, i), _in_place(maps, self._pair.pruned):
            if trained:
                descend(trained, RATE, _endless([*self._batches]), loss, schedule)
        if all(bool(p.isfinite().all()) for p, _ in trained):
            for item in maps:
                self._pair.put(item.plan, item.factors)


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


def _endless(batches: list[int]) -> Iterator[int]:
    """The batches in random order, again and again."""
    generator = torch.Generator().manual_seed(0)
    while True:
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[i]
