"""One of two networks that run block by block beside each other, from states in files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rmtcli.evaluation.outline import Outline
from rmtcli.running.chain import Call, Chain, FromBlock, FromGlue, Glue, Run, Source
from rmtcli.running.states import States


class BlockRun:
    """A network that runs block by block, forwards.

    Args:
        name: distinguishes its states from the other network's.
        outline: the network.
        chains: its chains of blocks.
        run: computes its outputs.
        states: keeps what is between the blocks.

    Attributes:
        model: the network.
    """

    def __init__(
        self, name: str, outline: Outline, chains: Sequence[Chain], run: Run, states: States
    ) -> None:
        self.model = outline.model
        self._name, self._outline, self._states, self._chains = name, outline, states, chains
        self._glue = Glue(self.model, chains, run)
        #: What blocks are called with, and how many tensors they share, by chain and batch.
        self._calls: dict[tuple[int, int], tuple[list[Call], int]] = {}
        self._device = next(self.model.parameters()).device

    @torch.no_grad()
    def enter(self, number: int, b: int, inputs: Tensor) -> None:
        """Find what a chain's blocks are called with, and keep the state of its first block.

        Args:
            number: the chain.
            b: number of the batch.
            inputs: the batch.
        """
        before = number - 1
        state = None if before < 0 else self.state(before, len(self._chains[before].blocks), b)
        entry = self._glue.entry(number, inputs, state, self._outline.drop)
        self._outline.drop()
        self._calls[number, b] = entry.calls, len(entry.shared)
        self._put("state", (number, 0, b), entry.first)
        for k, tensor in enumerate(entry.shared):
            self._put("shared", (number, b, k), tensor)

    def state(self, number: int, i: int, b: int) -> Tensor:
        """The state before a block, or after the last one."""
        return self._get("state", (number, i, b))

    @contextmanager
    def holding(self, number: int, i: int) -> Iterator[None]:
        """Hold the matrices of a block in memory while it runs on several batches."""
        with self._outline.holding(self.model.get_submodule(self._chains[number].blocks[i])):
            yield

    def run(self, number: int, i: int, b: int) -> list[Any]:
        """What a block returns."""
        block = self.model.get_submodule(self._chains[number].blocks[i])
        return self._calls[number, b][0][i].run(block, self._values(number, i, b))

    @torch.no_grad()
    def forward(self, number: int, i: int, batches: Iterable[int]) -> None:
        """Run a block on all batches, and keep what the blocks after it read."""
        with self.holding(number, i):
            for b in batches:
                values = self.run(number, i, b)
                self._put("state", (number, i + 1, b), values[0])
                for extra in self._chains[number].extras:
                    if extra.block == i:
                        self._put("extra", (number, i, b, extra.leaf), values[extra.leaf])

    def drop(self, number: int, i: int) -> None:
        """Forget the states before a block."""
        self._states.drop_under(f"{self._name}-state", number, i)

    def _values(self, number: int, i: int, b: int) -> Mapping[Source, Tensor]:
        """The tensors that a block's arguments stand for."""
        count = self._calls[number, b][1]
        values: dict[Source, Tensor] = {
            FromGlue(k): self._get("shared", (number, b, k)) for k in range(count)
        }
        values[FromBlock(i - 1, 0)] = self.state(number, i, b)
        for source in self._chains[number].reads[i]:
            if source is not None and source.leaf:
                values[source] = self._get("extra", (number, source.block, b, source.leaf))
        return values

    def _put(self, kind: str, key: tuple[int, ...], value: Tensor) -> None:
        self._states.put((f"{self._name}-{kind}", *key), value)

    def _get(self, kind: str, key: tuple[int, ...]) -> Tensor:
        return self._states.get((f"{self._name}-{kind}", *key)).to(self._device)
