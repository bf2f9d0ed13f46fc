"""Find the chains of blocks in a network, by running it on a few samples.

One block at a time is in memory while it runs. Whether a run in parts gives the same outputs is
tried with the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakIdKeyDictionary

from rmtcli.computing.freed import give_back
from rmtcli.errors import NotInPartsError
from rmtcli.evaluation.outline import Outline, blocks_of
from rmtcli.running.chain import (
    FIRST,
    Chain,
    Constant,
    Entry,
    FromBlock,
    FromGlue,
    Glue,
    Passed,
    Run,
)
from rmtcli.running.observe import equal, removed


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A run of a few samples with one block at a time in memory.

    Attributes:
        chains: the chains, in the order in which they run.
        outside: the watched modules that run before each chain, and after the last one.
        sizes: bytes of a state of these samples, in each chain.
    """

    chains: list[Chain]
    outside: list[list[str]]
    sizes: list[int]


def find_chains(
    model: nn.Module,
    run: Run,
    inputs: Tensor,
    watched: Sequence[str],
    outline: Outline,
) -> Trial:
    """Find the chains of a network.

    Args:
        model: the network.
        run: computes its outputs.
        inputs: a few samples.
        watched: names of modules.
        outline: reads the network's weights.

    Raises:
        NotInPartsError: it has none, or a run in parts gives other outputs, or a watched module
            runs before and after a chain.
    """
    search = _Search([Chain(name, blocks) for name, blocks in blocks_of(model).items()])
    hooks: list[Any] = []
    for chain in search.chains:
        for i, name in enumerate(chain.blocks):
            block = model.get_submodule(name)
            hooks.append(block.register_forward_pre_hook(lambda m, _: outline.load(m)))
            hooks.append(
                block.register_forward_hook(
                    partial(search.ran, chain, i, outline.drop), with_kwargs=True
                )
            )
    inside = tuple(f"{chain.name}." for chain in search.chains)
    for name in watched:
        if not name.startswith(inside):
            module = model.get_submodule(name)
            hooks.append(module.register_forward_pre_hook(partial(search.reached, name)))
    with removed(hooks), torch.no_grad():
        outputs = run(model, inputs)
    outline.drop()
    give_back()
    chains = search.whole()
    _check(Glue(model, chains, run), search, inputs, outputs)
    outline.drop()
    sizes = [search.states[chain.name].nbytes for chain in chains]
    return Trial(chains, search.outside(), sizes)


@dataclass(slots=True, eq=False)
class _Search:
    """What is seen of the blocks while a network runs."""

    chains: list[Chain]
    order: list[Chain] = field(default_factory=list)
    segments: dict[str, set[int]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    states: dict[str, Tensor] = field(default_factory=dict)
    arguments: dict[str, list[list[Any]]] = field(default_factory=dict)
    #: What blocks returned, by tensor. None is kept, so that memory does not grow with the depth.
    _made: WeakIdKeyDictionary = field(default_factory=WeakIdKeyDictionary)

    def reached(self, name: str, *_: Any) -> None:
        """Note that a module outside the chains runs."""
        done = sum(len(chain.reads) == len(chain.blocks) for chain in self.order)
        self.segments.setdefault(name, set()).add(done)

    def ran(
        self,
        chain: Chain,
        index: int,
        release: Callable[[], None],
        _: nn.Module,
        args: Any,
        kwargs: Any,
        output: Any,
    ) -> None:
        """Note a block's arguments and what it returned."""
        release()
        if index == 0 and not chain.reads:
            self.order.append(chain)
            self._made = WeakIdKeyDictionary()
        leaves, (values, spec) = tree_flatten((args, kwargs))[0], tree_flatten(output)
        made = self._made
        reads = [made[x] if isinstance(x, Tensor) and x in made else None for x in leaves]
        known = (Tensor, int, float, bool, str, torch.dtype, torch.device, type(None))
        own = index == len(chain.reads) and self.order[-1:] == [chain]
        states = [x for x in reads if x is not None and x.leaf == 0]
        ordered = states == [FromBlock(index - 1, 0)] if index else not states
        if not (own and ordered and all(isinstance(x, known) for x in (*leaves, *values))):
            self.broken.add(chain.name)
            return
        if not values or not isinstance(values[0], Tensor):
            self.broken.add(chain.name)
            return
        chain.reads.append(reads)
        chain.returns.append([self._template(x, leaves) for x in values])
        chain.specs.append(spec)
        noted = [x if read is None else read for x, read in zip(leaves, reads, strict=True)]
        self.arguments.setdefault(chain.name, []).append(noted)
        self.states[chain.name] = values[0]
        for k, x in enumerate(values):
            if isinstance(x, Tensor) and not isinstance(chain.returns[-1][k], Passed):
                self._made[x] = FromBlock(index, k)

    @staticmethod
    def _template(value: Any, leaves: Sequence[Any]) -> Any:
        if not isinstance(value, Tensor):
            return Constant(value)
        same = (i for i, x in enumerate(leaves) if x is value)
        argument = next(same, None)
        return None if argument is None else Passed(argument)

    def outside(self) -> list[list[str]]:
        """The watched modules that run before each chain, and after the last one.

        Raises:
            NotInPartsError: one of them runs before and after a chain.
        """
        parts: list[list[str]] = [[] for _ in range(len(self.order) + 1)]
        for name, numbers in self.segments.items():
            if len(numbers) > 1:
                raise NotInPartsError(f"'{name}' runs before and after its blocks")
            parts[min(numbers)].append(name)
        return parts

    def whole(self) -> list[Chain]:
        """The chains that are usable.

        Raises:
            NotInPartsError: there are none, or some of them are not run as chains are.
        """
        if self.broken:
            raise NotInPartsError(f"its blocks in '{min(self.broken)}' are no chain")
        if not self.order or any(len(x.reads) < len(x.blocks) for x in self.order):
            raise NotInPartsError("it has no chain of blocks")
        return self.order


def _check(glue: Glue, search: _Search, inputs: Tensor, outputs: Tensor) -> None:
    """Make sure that a run in parts calls blocks as a whole run does, and has its outputs.

    Raises:
        NotInPartsError: it does not.
    """
    state: Tensor | None = None
    try:
        with torch.no_grad():
            for number, chain in enumerate(glue.chains):
                entry = glue.entry(number, inputs, state, lambda: None)
                for call, before in zip(entry.calls, search.arguments[chain.name], strict=True):
                    if not all(map(partial(_agree, entry), call.arguments, before)):
                        raise NotInPartsError(
                            f"what the blocks of '{chain.name}' read is not settled"
                        )
                state = search.states[chain.name]
            assert state is not None
            same = equal(glue.outputs(inputs, state, lambda: None), outputs)
    except NotInPartsError:
        raise
    # A network's code may raise anything where stand-ins take the place of blocks.
    except Exception as error:
        raise NotInPartsError(f"it does not run in parts: {error}") from None
    if not same:
        raise NotInPartsError("a run in parts gives other outputs")


def _agree(entry: Entry, now: Any, before: Any) -> bool:
    """Whether an argument is that of a whole run, up to what blocks return."""
    if isinstance(now, FromGlue):
        now = entry.shared[now.number]
    if now == FIRST:
        now = entry.first
    if isinstance(now, FromBlock):
        return True
    if isinstance(now, Tensor):
        return isinstance(before, Tensor) and torch.equal(now, before)
    return bool(now == before)
