"""Passes of one batch through the parts of a network that runs block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from rmtcli.calibration.starts import run_back
from rmtcli.calibration.watch import Watch
from rmtcli.errors import NotInPartsError
from rmtcli.evaluation.outline import Outline
from rmtcli.running.chain import Chain, Entry, FromBlock, FromGlue, Glue, Run, Source
from rmtcli.running.states import States


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a run, which goes over all batches before the next one.

    Attributes:
        kind: whether it enters a chain of blocks, runs a block forward, ends the network, runs a
            block back, or leaves a chain through the glue before it.
        chain: number of the chain; for the end, that of the chains.
        block: number of the block in its chain.
    """

    kind: Literal["enter", "forward", "end", "backward", "leave"]
    chain: int = 0
    block: int = 0

    @property
    def name(self) -> str:
        """Its name in a folder."""
        return f"{self.kind}-{self.chain}-{self.block}"

    @property
    def in_block(self) -> bool:
        """Whether it runs a block, and no glue."""
        return self.kind in ("forward", "backward")


@dataclass(slots=True, eq=False)
class Batch:
    """One batch of inputs, and what glue makes of it.

    Attributes:
        inputs: the inputs.
        masks: which of its positions count.
        entries: what glue makes for each chain; the first state is not held.
        steep: which of the shared arguments of each chain depend on the chain before.
    """

    inputs: Tensor
    masks: Sequence[Tensor] = ()
    entries: dict[int, Entry] = field(default_factory=dict)
    steep: dict[int, list[FromGlue]] = field(default_factory=dict)


class Passes:
    """Runs a part over one batch, from the states that the part before it has kept.

    Args:
        outline: the network.
        chains: its chains of blocks.
        run: computes its outputs.
        states: keeps what is between the blocks.
        batches: the batches.
        masks: gives the positions of the last batch that count.
        draws: number of backward passes per batch.
    """

    def __init__(
        self,
        outline: Outline,
        chains: Sequence[Chain],
        run: Run,
        states: States,
        batches: Sequence[Batch],
        *,
        masks: Callable[[], Sequence[Tensor]],
        draws: int,
    ) -> None:
        self._outline, self._model, self._states = outline, outline.model, states
        self._chains, self._glue = chains, Glue(outline.model, chains, run)
        self._batches, self._masks, self._draws = batches, masks, draws

    def of(
        self, part: Part, watch: Watch, start: Callable[[Tensor], Tensor]
    ) -> Callable[[int], None]:
        """What runs a part over one batch, given its number.

        Args:
            part: the part.
            watch: what watches it.
            start: what a backward pass starts from, given the outputs.
        """
        steps: dict[str, Callable[[int], None]] = {
            "enter": partial(self._enter, part.chain, watch),
            "forward": partial(self._forward, part, watch),
            "end": partial(self._end, watch, start),
            "backward": partial(self._backward, part, watch),
            "leave": partial(self._leave, part.chain, watch),
        }
        return steps[part.kind]

    def read(self, part: Part, watch: Watch, b: int) -> None:
        """Run a part forward over a batch, and keep nothing: it only reads."""
        if part.in_block:
            self._run(part, b, self._values(part.chain, part.block, b))
        elif part.kind == "end":
            self._outputs(b, watch, gradients=False)
        else:
            self._glued(part.chain, b, watch, gradients=False)
        watch.add_inputs()

    def prepare(self, part: Part, batches: Sequence[int]) -> None:
        """Find what a block is called with, unless that is known, and read its weights."""
        if not part.in_block:
            return
        for b in batches:
            if part.chain not in self._batches[b].entries:
                self._entered(part.chain, b, Watch(), gradients=self._draws > 0)
        self._outline.drop()
        self._outline.load(self._block(part))

    def _block(self, part: Part) -> torch.nn.Module:
        return self._model.get_submodule(self._chains[part.chain].blocks[part.block])

    def _begin(self, watch: Watch, *, gradients: bool) -> Callable[[], None]:
        """What happens where a part of the glue begins that is looked at."""

        def begin() -> None:
            self._outline.drop()
            watch.active = True
            torch.set_grad_enabled(gradients)

        watch.active = False
        return begin

    def _glued(
        self, number: int, b: int, watch: Watch, *, gradients: bool
    ) -> tuple[Tensor | None, Entry]:
        """Run the glue before a chain: the state before it, and what it makes of that."""
        state = self._last(number - 1, b)
        if state is not None:
            state.requires_grad_(gradients)
        begin = self._begin(watch, gradients=gradients)
        with torch.no_grad():
            return state, self._glue.entry(number, self._batches[b].inputs, state, begin)

    def _entered(
        self, number: int, b: int, watch: Watch, *, gradients: bool
    ) -> tuple[Tensor | None, Entry]:
        """The same, and note what the chain's blocks are called with."""
        state, entry = self._glued(number, b, watch, gradients=gradients)
        batch = self._batches[b]
        batch.masks = self._masks()
        batch.steep[number] = [FromGlue(k) for k, x in enumerate(entry.shared) if x.requires_grad]
        shared = [tensor.detach() for tensor in entry.shared]
        batch.entries[number] = Entry(entry.calls, entry.first.new_empty(0), shared)
        return state, entry

    def _last(self, number: int, b: int) -> Tensor | None:
        """What the last block of a chain returned; None for the chain before the first."""
        if number < 0:
            return None
        return self._states.get(("state", number, len(self._chains[number].blocks), b)).detach()

    def _values(self, number: int, i: int, b: int) -> dict[Source, Tensor]:
        """The tensors that a block's arguments stand for."""
        shared = self._batches[b].entries[number].shared
        values: dict[Source, Tensor] = {FromGlue(k): x.detach() for k, x in enumerate(shared)}
        values[FromBlock(i - 1, 0)] = self._states.get(("state", number, i, b)).detach()
        for source in self._chains[number].reads[i]:
            if source is not None and source.leaf:
                key = "extra", number, source.block, b, source.leaf
                values[source] = self._states.get(key).detach()
        return values

    def _run(self, part: Part, b: int, values: dict[Source, Tensor]) -> list[Any]:
        """What one block returns."""
        call = self._batches[b].entries[part.chain].calls[part.block]
        return call.run(self._block(part), values)

    def _outputs(self, b: int, watch: Watch, *, gradients: bool) -> tuple[Tensor, Tensor]:
        """What the last block returned, and the network's outputs."""
        state = self._last(len(self._chains) - 1, b)
        assert state is not None
        state.requires_grad_(gradients)
        begin = self._begin(watch, gradients=gradients)
        with torch.no_grad():
            return state, self._glue.outputs(self._batches[b].inputs, state, begin)

    def _enter(self, number: int, watch: Watch, b: int) -> None:
        """Keep the state of a chain's first block."""
        _, entry = self._entered(number, b, watch, gradients=self._draws > 0)
        watch.add_inputs()
        self._states.put(("state", number, 0, b), entry.first)

    def _forward(self, part: Part, watch: Watch, b: int) -> None:
        """Run one block."""
        number, i = part.chain, part.block
        values = self._run(part, b, self._values(number, i, b))
        watch.add_inputs()
        self._states.put(("state", number, i + 1, b), values[0])
        for extra in self._chains[number].extras:
            if extra.block == i:
                self._states.put(("extra", number, i, b, extra.leaf), values[extra.leaf])

    def _end(self, watch: Watch, start: Callable[[Tensor], Tensor], b: int) -> None:
        """Run what follows the last block, and start the backward passes."""
        last = len(self._chains) - 1
        state, outputs = self._outputs(b, watch, gradients=self._draws > 0)
        watch.add_inputs()
        for left in reversed(range(self._draws)):
            run_back([outputs], [start(outputs.detach())], retain_graph=left > 0)
            self._states.hand_on(last, len(self._chains[last].blocks), b, left, state)
        self._outline.drop()

    def _backward(self, part: Part, watch: Watch, b: int) -> None:
        """Run one block again, and back."""
        number, i = part.chain, part.block
        chain, values = self._chains[number], self._values(number, i, b)
        state = values[FromBlock(i - 1, 0)]
        leaves = {source: values[source] for source in self._batches[b].steep[number]}
        for leaf in (state, *leaves.values()):
            leaf.requires_grad_(True)
        with torch.enable_grad():
            made = self._run(part, b, values)
        if any(x.block == i and made[x.leaf].requires_grad for x in chain.extras):
            raise NotInPartsError(f"blocks of '{chain.name}' share values that have gradients")
        watch.add_inputs()
        for left in reversed(range(self._draws)):
            slope = self._states.get(("slope", number, i + 1, b, left))
            run_back([made[0]], [slope], retain_graph=left > 0)
            self._states.hand_on(number, i, b, left, state)
            for source, leaf in leaves.items():
                self._states.add_up(number, i, b, left, (source.number, leaf))

    def _leave(self, number: int, watch: Watch, b: int) -> None:
        """Run the glue before a chain again, and back."""
        state, entry = self._entered(number, b, watch, gradients=True)
        watch.add_inputs()
        for left in reversed(range(self._draws)):
            ends = [(entry.first, self._states.get(("slope", number, 0, b, left)))]
            for source in self._batches[b].steep[number]:
                slope = self._states.find(("shared", number, 0, b, left, source.number))
                if slope is not None:
                    ends.append((entry.shared[source.number], slope))
            tensors, slopes = zip(*(x for x in ends if x[0].requires_grad), strict=True)
            run_back(tensors, slopes, retain_graph=left > 0)
            if state is not None:
                size = len(self._chains[number - 1].blocks)
                self._states.hand_on(number - 1, size, b, left, state)
        self._outline.drop()
