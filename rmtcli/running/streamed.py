"""Collect moments block by block, so that memory holds the weights and moments of one block.

The states between blocks are kept. They are computed block by block, forwards. Then each block runs
again from its state, the last one first, and hands the gradient of its state on to the one before:
the vector–Jacobian product that a backward pass through the whole network computes, started from
the same random values. So the moments are those of
:func:`rmtcli.calibration.collect.collect`, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rmtcli.calibration import Moments, StoredMoments
from rmtcli.calibration.collect import SEED, Start, watch_for, without_gradients
from rmtcli.calibration.starts import run_back
from rmtcli.calibration.watch import Watch
from rmtcli.computing.freed import give_back
from rmtcli.computing.steps import tracked
from rmtcli.errors import NotInPartsError
from rmtcli.evaluation.outline import Outline
from rmtcli.running.chain import Entry, FromBlock, FromGlue, Glue, Run, Source
from rmtcli.running.find_chains import find_chains
from rmtcli.running.room import of_layers, positions
from rmtcli.running.states import States

#: Samples on which chains are found and tried.
_SAMPLES = 4


@dataclass(slots=True, eq=False)
class _Batch:
    """One batch of inputs, and what glue makes of it.

    Attributes:
        inputs: the inputs.
        masks: which of its positions count.
        entries: what glue makes for each chain.
        steep: which of the shared arguments of each chain depend on the chain before.
    """

    inputs: Tensor
    masks: Sequence[Tensor] = ()
    entries: dict[int, Entry] = field(default_factory=dict)
    steep: dict[int, list[FromGlue]] = field(default_factory=dict)


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
        bytes: about as many bytes take all states, and all moments and decompositions.

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
        self._batches = [_Batch(torch.from_numpy(part.copy())) for part in parts]
        self._current = self._batches[0]
        few = inputs[: min(batch, _SAMPLES)]
        trial = find_chains(self._model, run, torch.from_numpy(few.copy()), layers, outline)
        share = positions(inputs, batch) / positions(few, batch)
        self.bytes = int(trial.bytes * share), of_layers(self._model, layers, watch.dtype.itemsize)
        self._chains, self._glue = trial.chains, Glue(self._model, trial.chains, run)
        inside = {name for chain in trial.chains for name in chain.blocks}
        self._own = {
            block: [x for x in layers if x == block or x.startswith(f"{block}.")]
            for block in inside
        }
        self._outside = trial.outside
        self._whole = watch_for(self._model, layers, replace(watch, gradients=draws > 0))

    def collect(self, start: Start, store: StoredMoments) -> None:
        """Collect the moments of one part of the network after the other.

        Args:
            start: what a backward pass starts from, given the outputs.
            store: takes the moments of each part. Parts that it has are not run again.
        """
        sizes = [len(chain.blocks) for chain in self._chains]
        backward = range(len(sizes))[::-1] if self._draws else range(0)
        with without_gradients(self._model), torch.no_grad():
            for number, size in enumerate(sizes):
                last = f"leave-{number}" if self._draws else f"forward-{number}-{size - 1}"
                if store.know(last):
                    continue
                self._enter(number, store)
                for i in tracked(range(size), "calibrating: forward"):
                    self._part(f"forward-{number}-{i}", store, partial(self._forward, number, i))
                    if not self._draws:
                        self._states.drop_between(number, i, len(self._batches), 0)
            self._part("end", store, partial(self._end, start))
            for number in backward:
                for i in tracked(range(sizes[number])[::-1], "calibrating: backward"):
                    self._part(f"backward-{number}-{i}", store, partial(self._backward, number, i))
                    self._states.drop_between(number, i + 1, len(self._batches), self._draws)
                self._part(f"leave-{number}", store, partial(self._leave, number))

    def _part(self, name: str, store: StoredMoments, run: Callable[[], dict[str, Moments]]) -> None:
        """Run a part of the network, unless its moments are there."""
        if not store.know(name):
            store.put(name, run())
            give_back()

    def _watch(self, masks: Callable[[], Sequence[Tensor]]) -> Watch:
        """What watches one part of the network."""
        return replace(self._whole, masks=masks)

    def _collected(self, watch: Watch, names: Sequence[str]) -> dict[str, Moments]:
        self._outline.drop()
        return watch.moments(names, self._samples, self._draws)

    def _each(self, watch: Watch, names: Sequence[str]) -> Iterator[tuple[int, _Batch]]:
        """The batches, each of which ends with its sums being added."""
        with watch.attached(self._model, names):
            for b, batch in enumerate(self._batches):
                self._current = batch
                yield b, batch
                if names:  # what its passes took goes before sums are as large as they get
                    give_back()
                watch.close()

    def _begin(self, watch: Watch, *, gradients: bool) -> Callable[[], None]:
        """What happens where a part of the glue begins that is looked at."""

        def begin() -> None:
            self._outline.drop()
            watch.active = True
            torch.set_grad_enabled(gradients)

        watch.active = False
        return begin

    def _enter(self, number: int, store: StoredMoments) -> None:
        """Find what a chain's blocks are called with, and keep the state of its first block."""
        name, watch = f"enter-{number}", self._watch(self._masks)
        known = store.know(name)
        names = [] if self._draws or known else self._outside[number]
        for b, batch in self._each(watch, names):
            state = self._last(number - 1, b)
            entry = self._glued(number, b, state, watch, gradients=self._draws > 0)
            batch.masks = self._masks()
            watch.add_inputs()
            steep = [FromGlue(k) for k, x in enumerate(entry.shared) if x.requires_grad]
            shared = [tensor.detach() for tensor in entry.shared]
            first = entry.first.new_empty(0)  # the states hold it
            batch.entries[number] = Entry(entry.calls, first, shared)
            batch.steep[number] = steep
            if not known:
                self._states.put(("state", number, 0, b), entry.first)
        if not known:
            store.put(name, self._collected(watch, names))
        self._outline.drop()

    def _glued(
        self, number: int, b: int, state: Tensor | None, watch: Watch, *, gradients: bool
    ) -> Entry:
        """Run the glue before a chain."""
        if state is not None:
            state.requires_grad_(gradients)
        begin = self._begin(watch, gradients=gradients)
        with torch.no_grad():
            return self._glue.entry(number, self._batches[b].inputs, state, begin)

    def _last(self, number: int, b: int) -> Tensor | None:
        """What the last block of a chain returned; None for the chain before the first."""
        if number < 0:
            return None
        return self._states.get(("state", number, len(self._chains[number].blocks), b)).detach()

    def _forward(self, number: int, i: int) -> dict[str, Moments]:
        """Run one block over all batches."""
        chain, watch = self._chains[number], self._watch(lambda: self._current.masks)
        block = self._model.get_submodule(chain.blocks[i])
        names = [] if self._draws else self._own[chain.blocks[i]]
        self._outline.load(block)
        for b, batch in self._each(watch, names):
            values = batch.entries[number].calls[i].run(block, self._values(number, i, b))
            watch.add_inputs()
            self._states.put(("state", number, i + 1, b), values[0])
            for extra in chain.extras:
                if extra.block == i:
                    key = "extra", number, i, b, extra.leaf
                    self._states.put(key, values[extra.leaf])
        return self._collected(watch, names)

    def _values(self, number: int, i: int, b: int) -> dict[Source, Tensor]:
        """The tensors that a block's arguments stand for."""
        shared = self._batches[b].entries[number].shared
        values: dict[Source, Tensor] = {FromGlue(k): x for k, x in enumerate(shared)}
        values[FromBlock(i - 1, 0)] = self._states.get(("state", number, i, b))
        for source in self._chains[number].reads[i]:
            if source is not None and source.leaf:
                key = "extra", number, source.block, b, source.leaf
                values[source] = self._states.get(key)
        return values

    def _end(self, start: Start) -> dict[str, Moments]:
        """Run what follows the last block, and start the backward passes."""
        generator = torch.Generator().manual_seed(SEED)
        last, watch = len(self._chains), self._watch(self._masks)
        names = self._outside[last]
        for b, batch in self._each(watch, names):
            state = self._last(last - 1, b)
            assert state is not None
            state.requires_grad_(self._draws > 0)
            begin = self._begin(watch, gradients=self._draws > 0)
            with torch.no_grad():
                outputs = self._glue.outputs(batch.inputs, state, begin)
            watch.add_inputs()
            for left in reversed(range(self._draws)):
                values = start(outputs.detach(), generator)
                run_back([outputs], [values], retain_graph=left > 0)
                self._states.hand_on(last - 1, len(self._chains[-1].blocks), b, left, state)
            self._outline.drop()
        return self._collected(watch, names)

    def _backward(self, number: int, i: int) -> dict[str, Moments]:
        """Run one block again over all batches, and back."""
        chain, watch = self._chains[number], self._watch(lambda: self._current.masks)
        block, names = self._model.get_submodule(chain.blocks[i]), self._own[chain.blocks[i]]
        self._outline.load(block)
        for b, batch in self._each(watch, names):
            values = {x: v.detach() for x, v in self._values(number, i, b).items()}
            state = values[FromBlock(i - 1, 0)]
            leaves = {source: values[source] for source in batch.steep[number]}
            for leaf in (state, *leaves.values()):
                leaf.requires_grad_(True)
            with torch.enable_grad():
                made = batch.entries[number].calls[i].run(block, values)
            if any(x.block == i and made[x.leaf].requires_grad for x in chain.extras):
                raise NotInPartsError(f"blocks of '{chain.name}' share values that have gradients")
            watch.add_inputs()
            for left in reversed(range(self._draws)):
                slope = self._states.get(("slope", number, i + 1, b, left))
                run_back([made[0]], [slope], retain_graph=left > 0)
                self._states.hand_on(number, i, b, left, state)
                for source, leaf in leaves.items():
                    self._states.add_up(number, i, b, left, (source.number, leaf))
        return self._collected(watch, names)

    def _leave(self, number: int) -> dict[str, Moments]:
        """Run the glue before a chain again, and back."""
        watch, names = self._watch(self._masks), self._outside[number]
        for b, batch in self._each(watch, names) if names or number else ():
            state = self._last(number - 1, b)
            entry = self._glued(number, b, state, watch, gradients=True)
            watch.add_inputs()
            for left in reversed(range(self._draws)):
                ends = [(entry.first, self._states.get(("slope", number, 0, b, left)))]
                for source in batch.steep[number]:
                    slope = self._states.find(("shared", number, 0, b, left, source.number))
                    if slope is not None:
                        ends.append((entry.shared[source.number], slope))
                tensors, slopes = zip(*(x for x in ends if x[0].requires_grad), strict=True)
                run_back(tensors, slopes, retain_graph=left > 0)
                if state is not None:
                    size = len(self._chains[number - 1].blocks)
                    self._states.hand_on(number - 1, size, b, left, state)
            self._outline.drop()
        return self._collected(watch, names)
