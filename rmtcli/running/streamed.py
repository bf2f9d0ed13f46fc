"""Collect moments block by block, so that memory holds the weights and moments of one block.

The states between blocks are kept. They are computed block by block, forwards. Then each block runs
again from its state, the last one first, and hands the gradient of its state on to the one before:
the vector–Jacobian product that a backward pass through the whole network computes, started from
the same random values. So the moments are those of
:func:`rmtcli.calibration.collect.collect`, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rmtcli.calibration import StoredMoments
from rmtcli.calibration.collect import SEED, Start, watch_for, without_gradients
from rmtcli.calibration.watch import Centres, Watch
from rmtcli.computing.freed import give_back
from rmtcli.computing.steps import tracked
from rmtcli.evaluation.outline import Outline
from rmtcli.running.chain import Run
from rmtcli.running.find_chains import find_chains
from rmtcli.running.passes import Batch, Part, Passes
from rmtcli.running.room import positions, room
from rmtcli.running.states import States

#: Samples on which chains are found and tried.
_SAMPLES = 4


class Stream:
    """A network that runs block by block over samples.

    Args:
        outline: the network.
        inputs: shape (samples, …).
        layers: names of the modules to watch.
        run: computes a network's outputs.
        states: keeps what is between the blocks.
        batch: number of samples that run at a time.
        draws: number of backward passes per batch; 0 to collect no output gradients.
        watch: says which positions of the batch that ran last count, and in which type products
            are summed up.

    Attributes:
        batches: number of batches.
        room: how many bytes the files of a run take.

    Raises:
        NotInPartsError: the network cannot be run block by block.
    """

    def __init__(
        self,
        outline: Outline,
        inputs: NDArray[Any],
        layers: Sequence[str],
        run: Run,
        states: States,
        *,
        batch: int,
        draws: int,
        watch: Watch,
    ) -> None:
        self._outline, self._model, self._states = outline, outline.model, states
        self._masks, self._draws, self._samples = watch.masks, draws, len(inputs)
        parts = np.split(inputs, range(batch, len(inputs), batch))
        self._batches = [Batch(torch.from_numpy(part.copy())) for part in parts]
        self.batches, self._current = len(parts), self._batches[0]
        few = inputs[: min(batch, _SAMPLES)]
        trial = find_chains(self._model, run, torch.from_numpy(few.copy()), layers, outline)
        share = positions(inputs, batch) / positions(few, batch)
        sizes = [
            (int(size * share), len(chain.blocks))
            for size, chain in zip(trial.sizes, trial.chains, strict=True)
        ]
        self.room = room(sizes, draws, self._model, layers, watch.dtype.itemsize)
        self._chains = trial.chains
        own = outline, trial.chains, run, states, self._batches
        self._passes = Passes(*own, masks=watch.masks, draws=draws)
        inside = {name for chain in trial.chains for name in chain.blocks}
        self._own = {
            block: [x for x in layers if x == block or x.startswith(f"{block}.")]
            for block in inside
        }
        self._outside = trial.outside
        self._whole = watch_for(self._model, layers, replace(watch, gradients=draws > 0))

    def parts(self) -> Iterator[Part]:
        """The parts of a run, in order."""
        sizes = [len(chain.blocks) for chain in self._chains]
        for number, size in enumerate(sizes):
            yield Part("enter", number)
            for i in tracked(range(size), "calibrating: forward"):
                yield Part("forward", number, i)
        yield Part("end", len(sizes))
        for number in range(len(sizes) if self._draws else 0)[::-1]:
            for i in tracked(range(sizes[number])[::-1], "calibrating: backward"):
                yield Part("backward", number, i)
            yield Part("leave", number)

    def collect(self, store: StoredMoments, add: Callable[[Part, Watch], None]) -> None:
        """Collect the moments of one part of the network after the other.

        Args:
            store: takes the moments of each part. Parts that it has are not run again.
            add: runs a part over all batches and adds to the sums of what watches it, as
                :meth:`add` does.
        """
        for part in self.parts():
            if not store.know(part.name):
                watch = self.watch(part)
                add(part, watch)
                store.put(part.name, watch.moments(self._names(part), self._samples, self._draws))
                del watch
                give_back()
            self._forget(part)

    def watch(self, part: Part) -> Watch:
        """What watches one part of the network, without sums."""
        masks = (lambda: self._current.masks) if part.in_block else self._masks
        return replace(self._whole, masks=masks)

    def add(
        self,
        part: Part,
        watch: Watch,
        *,
        start: Start,
        batches: Sequence[int] | None = None,
        seed: int = SEED,
    ) -> None:
        """Run a part over batches, and add what its layers read and write to the sums of a watch.

        Args:
            part: the part; those before it have run over these batches.
            watch: what watches it.
            start: what a backward pass starts from, given the outputs.
            batches: numbers of the batches; all by default.
            seed: seed of the random values in it.
        """
        names, chosen = self._names(part), range(self.batches) if batches is None else batches
        if part == Part("leave") and not names:  # nothing is before the first chain
            return
        generator = torch.Generator().manual_seed(seed)
        step = self._passes.of(part, watch, lambda outputs: start(outputs, generator))
        with without_gradients(self._model), torch.no_grad():
            self._passes.prepare(part, chosen)
            with watch.attached(self._model, names):
                for b in chosen:
                    self._current = self._batches[b]
                    step(b)
                    give_back()  # what its passes took, before sums are as large as they get
                    watch.close()
        self._outline.drop()

    def centres(self, part: Part) -> Centres:
        """The points from which spreads count: the means of what a part reads in the first batch.

        With them, sums over some of the batches can be merged.
        """
        if not (names := self._names(part)):
            return {}
        watch = replace(self.watch(part), gradients=False)
        with without_gradients(self._model), torch.no_grad():
            self._passes.prepare(part, [0])
            with watch.attached(self._model, names):
                self._current = self._batches[0]
                self._passes.read(part, watch, 0)
                watch.close()
        self._outline.drop()
        return watch.means

    def _names(self, part: Part) -> list[str]:
        """The modules of which a part takes moments: with gradients, those on the way back."""
        if self._draws and part.kind in ("enter", "forward"):
            return []
        if part.in_block:
            return self._own[self._chains[part.chain].blocks[part.block]]
        return self._outside[part.chain]

    def _forget(self, part: Part) -> None:
        """Drop the states that no later part needs."""
        if part.kind == "forward" and not self._draws:
            self._states.drop_between(part.chain, part.block)
        elif part.kind == "backward":
            self._states.drop_between(part.chain, part.block + 1)
        elif part.kind == "leave":
            self._states.drop_all(part.chain)
        elif part.kind == "end" and not self._draws:
            for chain in range(part.chain):
                self._states.drop_all(chain)
