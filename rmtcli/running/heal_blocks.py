"""Heal a network block by block, so that memory holds what training one block takes.

For each block in order, what it trains is trained on the mean squared distance of its outputs from
those of the dense block. The dense block reads what it reads in the dense network, and the block
that is trained what it reads in the compressed one, whose blocks before it are trained. The states
before a block, of both networks, are files.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rmtcli.calibration import Calibration, Folder
from rmtcli.calibration.watch import rows_of
from rmtcli.computing.freed import give_back
from rmtcli.errors import EvaluationError
from rmtcli.evaluation import Harness
from rmtcli.evaluation.outline import Outline
from rmtcli.running.batches import step_size
from rmtcli.running.block_run import BlockRun
from rmtcli.running.calibrate import CalibrationInputs, masks_of
from rmtcli.running.descent import RATE, Extent, Schedule, descend
from rmtcli.running.find_chains import find_chains
from rmtcli.running.held_out import HeldOut
from rmtcli.running.states import States

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

#: Trains parameters, each with its scale, given what is added to the optimizer.
Descent = Callable[
    [Sequence[tuple[nn.Parameter, float]], Callable[[torch.optim.Optimizer], None]], None
]


class Trainable(Protocol):
    """What is trained in the blocks of a compressed network."""

    @property
    def outlines(self) -> tuple[Outline, Outline]:
        """The dense network and the compressed one, as what reads their matrices."""
        ...

    def has(self, block: str) -> bool:
        """Whether anything is trained in a block."""
        ...

    def train(self, block: str, descent: Descent) -> None:
        """Train a block of the compressed network, which is in memory, and store what is new.

        Raises:
            EvaluationError: there are values that are not finite.
        """
        ...


def heal_blocks(
    harness: Harness, trainable: Trainable, settings: Calibration, folder: Folder
) -> bool:
    """Train one block after another to reproduce the dense blocks' outputs.

    A part of the inputs is held out. A limit of time is divided evenly among the blocks; passes are
    those that each block makes.

    Args:
        harness: the dense network, and how networks are fed.
        trainable: both networks, and what is trained.
        settings: the inputs, and how long to train.
        folder: takes the states.

    Returns:
        Whether the network differs no more from the dense one on the inputs held out.

    Raises:
        NotInPartsError: the network cannot be run block by block.
    """
    start, source = time.monotonic(), CalibrationInputs.read(settings, harness)
    dense, pruned = (outline.model for outline in trainable.outlines)
    held_out = HeldOut(source, dense)
    _LOGGER.info("healing by blocks on %d samples: %s", len(held_out.inputs), settings.healing)
    before = held_out.distance(pruned)
    healing = Healing(trainable, source, held_out, States(folder))
    try:
        healing.run(Extent(settings.heal, settings.heal_minutes), start)
    except EvaluationError as error:  # the network ran before: its outputs are not finite now
        _LOGGER.info("healing: %s", error)
        return False
    after = held_out.distance(pruned)
    _LOGGER.info("healing: distance on held-out inputs from %.3g to %.3g", before, after)
    return after <= before


class Healing:
    """Both networks, block by block.

    Args:
        trainable: both networks, and what is trained.
        source: the calibration inputs.
        held_out: divides them.
        states: keeps the states between blocks.
    """

    def __init__(
        self,
        trainable: Trainable,
        source: CalibrationInputs,
        held_out: HeldOut,
        states: States,
    ) -> None:
        inputs, run, outlines = held_out.inputs, source.run, trainable.outlines
        few = torch.from_numpy(np.array(inputs[:_SAMPLES]))
        chains = find_chains(outlines[0].model, run, few, (), outlines[0]).chains
        self._trainable, self._chains = trainable, chains
        self._dense, self._pruned = (
            BlockRun(name, outline, chains, run, states)
            for name, outline in zip(("dense", "pruned"), outlines, strict=True)
        )
        batch = step_size(inputs, source.task.batch)
        parts = [x.copy() for x in np.split(inputs, range(batch, len(inputs), batch))]
        order = np.random.default_rng(0).permutation(len(parts))
        self._batches = {int(b): torch.from_numpy(parts[b]) for b in order}
        self._per_pass = len(parts)
        self._masks: dict[int, Sequence[Tensor]] = {}

    def run(self, extent: Extent, start: float) -> None:
        """Train one block after another.

        Args:
            extent: how long.
            start: value of ``time.monotonic`` from which on time counts.
        """
        every = [(n, i) for n, chain in enumerate(self._chains) for i in range(len(chain.blocks))]
        wanted = [key for key in every if self._trainable.has(self._name(*key))]
        if not wanted:
            return
        end, last = start + 60 * extent.minutes, wanted[-1]
        if extent.minutes:
            self._shorten((end - time.monotonic()) / len(wanted))
        for number, i in every[: every.index(last) + 1]:
            if i == 0:
                self._enter(number)
            began = time.monotonic()
            self._dense.forward(number, i, self._batches)
            if (number, i) in wanted:
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

    def _name(self, number: int, i: int) -> str:
        """The name of a block."""
        return self._chains[number].blocks[i]

    def _enter(self, number: int) -> None:
        """Run what is before a chain."""
        for b, inputs in self._batches.items():
            self._dense.enter(number, b, inputs)
            self._masks[b] = masks_of(self._dense.model)
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
        """Train a block, and store what is new in the compressed network."""
        name = self._name(number, i)
        schedule = Schedule(extent, self._per_pass, start, f"healing {name}", _SETTLED)

        def loss(b: int) -> Tensor:
            output = self._pruned.run(number, i, b)[0]
            target, masks = self._dense.state(number, i + 1, b), self._masks[b]
            wanted = rows_of(target, masks)
            scale = (wanted - wanted.mean(0)).square().mean().clamp_min(1e-30)
            return (rows_of(output, masks) - wanted).square().mean() / scale

        def descent(
            trained: Sequence[tuple[nn.Parameter, float]],
            around: Callable[[torch.optim.Optimizer], None],
        ) -> None:
            if trained:
                descend(trained, RATE, _endless([*self._batches]), loss, schedule, around)

        self._pruned.model.requires_grad_(False)
        with self._pruned.holding(number, i):
            self._trainable.train(name, descent)


def _endless(batches: list[int]) -> Iterator[int]:
    """The batches in random order, again and again."""
    generator = torch.Generator().manual_seed(0)
    while True:
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[i]
