"""Chains of blocks in a network, and what each block is called with.

A chain is a list of modules that run one after another, each once, where each reads what the one
before returned: the blocks of a transformer. All other code of the network is *glue*: it makes what
the first block reads and the arguments that all of them share (masks, positions), and it reads what
the last one returns. Glue runs without the blocks: they are replaced by functions that note their
arguments and return stand-ins. An encoder-decoder has two chains, with glue before, between and
after them.

Nothing is taken from names; :mod:`rmtcli.running.find_chains` finds the chains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from rmtcli.errors import NotInPartsError

Run = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class FromBlock:
    """An argument that is what an earlier block returned: the state, or one more value.

    Attributes:
        block: number of the block in its chain.
        leaf: number of the value among all that it returns; the state is 0.
    """

    block: int
    leaf: int


@dataclass(frozen=True, slots=True)
class FromGlue:
    """An argument that glue makes, by its number in an :class:`Entry`."""

    number: int


#: What an argument of a block stands for.
Source = FromBlock | FromGlue
#: The state that a chain's first block reads.
FIRST = FromBlock(-1, 0)


@dataclass(frozen=True, slots=True)
class Passed:
    """A value that a block returns as it was given, with the number of its argument."""

    argument: int


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that a block returns and that is no tensor."""

    value: Any


@dataclass(slots=True)
class Chain:
    """Blocks that run one after another.

    Attributes:
        name: the module that lists them.
        blocks: names of the blocks.
        reads: for each block and each of its arguments, where it comes from if an earlier block
            returned it, else None.
        returns: for each block, what it returns: a new tensor (None), a value that was passed
            through, or a constant.
        specs: how each block's values are nested.
    """

    name: str
    blocks: list[str]
    reads: list[list[FromBlock | None]] = field(default_factory=list)
    returns: list[list[Any]] = field(default_factory=list)
    specs: list[TreeSpec] = field(default_factory=list)

    @property
    def extras(self) -> set[FromBlock]:
        """What blocks read from earlier ones beside the state."""
        return {x for reads in self.reads for x in reads if x is not None and x.leaf > 0}


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What one block is called with.

    Attributes:
        spec: how the arguments are nested.
        arguments: the arguments; sources stand for tensors.
    """

    spec: TreeSpec
    arguments: list[Any]

    def run(self, block: nn.Module, values: Mapping[Source, Tensor]) -> list[Any]:
        """Run the block, with tensors in the place of the sources."""
        own = [values[x] if isinstance(x, Source) else x for x in self.arguments]
        args, kwargs = tree_unflatten(own, self.spec)
        return list(tree_flatten(block(*args, **kwargs))[0])


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """What glue makes for a chain.

    Attributes:
        calls: what each block is called with.
        first: the state that the first block reads.
        shared: all other tensors among the arguments.
    """

    calls: list[Call]
    first: Tensor
    shared: list[Tensor]

    @staticmethod
    def of(chain: Chain, calls: list[Call]) -> Entry:
        """Put sources in the place of the tensors among the arguments."""
        own = calls[0].arguments
        tensors = [i for i, x in enumerate(own) if isinstance(x, Tensor)]
        index = chain.reads[1].index(FromBlock(0, 0)) if len(chain.blocks) > 1 else tensors[0]
        first, own[index] = own[index], FIRST
        numbers: dict[int, int] = {}
        shared: list[Tensor] = []
        for call in calls:
            for k, x in enumerate(call.arguments):
                if isinstance(x, Tensor):
                    if id(x) not in numbers:
                        numbers[id(x)] = len(shared)
                        shared.append(x)
                    call.arguments[k] = FromGlue(numbers[id(x)])
        return Entry(calls, first, shared)


class _Enough(BaseException):
    """Ends a run early; not an Exception, so that no handler in a network catches it."""


class Glue:
    """A network whose blocks are stand-ins.

    Args:
        model: the network.
        chains: its chains, in the order in which they run.
        run: computes its outputs.
    """

    def __init__(self, model: nn.Module, chains: Sequence[Chain], run: Run) -> None:
        self.model, self.chains, self._run = model, chains, run

    def entry(
        self, chain: int, inputs: Tensor, state: Tensor | None, begin: Callable[[], None]
    ) -> Entry:
        """What glue makes for a chain.

        Args:
            chain: its number.
            inputs: a batch.
            state: what the last block of the chain before returned; None for the first chain.
            begin: is called where the glue before this chain begins.
        """
        calls: list[Call] = []
        with self._standing_in(chain, state, begin, calls), suppress(_Enough):
            self._run(self.model, inputs)
        return Entry.of(self.chains[chain], calls)

    def outputs(self, inputs: Tensor, state: Tensor, begin: Callable[[], None]) -> Tensor:
        """The network's outputs, from what the last block returned."""
        with self._standing_in(len(self.chains), state, begin, []):
            return self._run(self.model, inputs)

    @contextmanager
    def _standing_in(
        self, chain: int, state: Tensor | None, begin: Callable[[], None], calls: list[Call]
    ) -> Iterator[None]:
        modules = []
        if not chain:
            begin()
        for number, each in enumerate(self.chains):
            stand_ins: dict[int, FromBlock] = {}
            for i, name in enumerate(each.blocks):
                module = self.model.get_submodule(name)
                block = _StandIn(each, i, stand_ins)
                if number == chain:
                    block.calls = calls
                elif number == chain - 1 and i == len(each.blocks) - 1:
                    block.state, block.begin = state, begin
                module.__dict__["forward"] = block
                modules.append(module)
        try:
            yield
        finally:
            for module in modules:
                del module.__dict__["forward"]


@dataclass(slots=True, eq=False)
class _StandIn:
    """Takes the place of a block's ``forward``."""

    chain: Chain
    index: int
    stand_ins: dict[int, FromBlock]
    calls: list[Call] | None = None
    state: Tensor | None = None
    begin: Callable[[], None] | None = None
    kept: list[Tensor] = field(default_factory=list)  # so that ids stay theirs

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, spec = tree_flatten((args, kwargs))
        reads = [self.stand_ins.get(id(x)) for x in leaves]
        if self.calls is not None:
            if reads != self.chain.reads[self.index]:
                raise NotInPartsError(
                    f"{self.chain.name}: its blocks read other values in each batch"
                )
            own = [x if read is None else read for x, read in zip(leaves, reads, strict=True)]
            self.calls.append(Call(spec, own))
            if self.index == len(self.chain.blocks) - 1:
                raise _Enough
        if self.begin is not None:
            self.begin()
        shape = next(x for x in leaves if isinstance(x, Tensor))
        made = [self._returned(k, x, leaves, shape) for k, x in self._templates()]
        return tree_unflatten(made, self.chain.specs[self.index])

    def _templates(self) -> Iterator[tuple[int, Any]]:
        return iter(enumerate(self.chain.returns[self.index]))

    def _returned(self, leaf: int, template: Any, leaves: Sequence[Any], like: Tensor) -> Any:
        if isinstance(template, Passed):
            return leaves[template.argument]
        if template is not None:
            return template.value
        if leaf == 0 and self.state is not None:
            return self.state
        value = torch.zeros(1, dtype=like.dtype, device=like.device).expand(like.shape)
        self.kept.append(value)
        self.stand_ins[id(value)] = FromBlock(self.index, leaf)
        return value
