"""Run a network from a state in its middle, so that what comes before is not computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from torch import Tensor, nn

from rmtcli.checkpoint.names import module_of
from rmtcli.running.observe import equal, removed

Run = Callable[[nn.Module, Tensor], Tensor]
T = TypeVar("T")
#: A module's name and the tensor that it read.
Read = tuple[str, Tensor]
#: Number of samples on which boundaries are tried, and the most that are tried before a module.
_SAMPLES, _TRIED = 4, 8
#: Most bytes that the states of all batches may take.
MOST = 2 * 2**30


@dataclass(frozen=True, slots=True, eq=False)
class Boundary:
    """A point of a run after which only one module's output is needed.

    Attributes:
        module: name of this module; empty for the start of the run.
        stubs: modules that have run by then, with the number of values that each returns; 0 for a
            tensor instead of a tuple.
    """

    module: str = ""
    stubs: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class _Span:
    """One module's run: its name, when it began and ended, and how many values it returned.

    A tensor instead of a tuple is 0 values, anything else -1.
    """

    module: str
    begin: int
    end: int
    values: int


class Timeline:
    """The order in which the modules of a network run.

    Args:
        model: the network.
        run: computes its outputs.
        inputs: a few samples.

    Attributes:
        outputs: the network's outputs.
    """

    def __init__(self, model: nn.Module, run: Run, inputs: Tensor) -> None:
        self._spans: dict[str, list[_Span]] = {}
        begun: list[int] = []
        time = iter(range(2**62))

        def ended(name: str) -> Callable[..., None]:
            def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
                values = len(output) if isinstance(output, tuple) else 0
                if _state(output) is None:
                    values = -1
                span = _Span(name, begun.pop(), next(time), values)
                self._spans.setdefault(name, []).append(span)

            return hook

        hooks: list[Any] = []
        for name, module in model.named_modules():
            hooks.append(module.register_forward_pre_hook(lambda *_: begun.append(next(time))))
            hooks.append(module.register_forward_hook(ended(name)))
        with removed(hooks):
            self.outputs = run(model, inputs)

    def before(self, modules: Sequence[str]) -> Iterator[Boundary]:
        """The boundaries before some modules first run, the latest first."""
        first = min(span.begin for name in modules for span in self._spans[name])
        over = [spans[0] for spans in self._spans.values() if len(spans) == 1]
        over = sorted((x for x in over if x.end < first and x.values >= 0), key=lambda x: -x.end)
        for i, span in enumerate(over):
            names = {x.module for x in over[i:]}
            outer = (x for x in over[i:] if names.isdisjoint(_parents(x.module)))
            yield Boundary(span.module, tuple((x.module, x.values) for x in outer))


class _Enough(BaseException):
    """Ends a run early; not an Exception, so that no handler in a network catches it."""


def read(
    model: nn.Module, modules: Sequence[str], inputs: Tensor, run: Run, calls: int = 0
) -> list[Read]:
    """The tensors that some modules read in one run, in order.

    Args:
        model: the network.
        modules: names of the modules.
        inputs: shape (samples, …).
        run: computes the network's outputs.
        calls: number of reads after which the run ends; 0 for a whole run.
    """
    reads: list[Read] = []

    def noted(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            reads.append((name, args[0]))
            if len(reads) == calls:
                raise _Enough

        return hook

    hooks = [model.get_submodule(n).register_forward_pre_hook(noted(n)) for n in modules]
    with removed(hooks), suppress(_Enough):
        run(model, inputs)
    return reads


def state_at(model: nn.Module, boundary: Boundary, inputs: Tensor, run: Run) -> Tensor:
    """The state of a network at a boundary."""
    states: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        state = _state(output)
        assert state is not None
        states.append(state)
        raise _Enough

    with (
        removed([model.get_submodule(boundary.module).register_forward_hook(hook)]),
        suppress(_Enough),
    ):
        run(model, inputs)
    return states[0]


@contextmanager
def resumed(model: nn.Module, boundary: Boundary, state: Tensor | None) -> Iterator[None]:
    """Let the modules that have run by a boundary return the state, and compute nothing.

    What they return may be changed in place, so that it is a copy.
    """
    old: list[tuple[nn.Module, Any]] = []
    last, spare = (None if state is None else state.clone() for _ in range(2))
    try:
        for name, values in boundary.stubs:
            module = model.get_submodule(name)
            value = last if name == boundary.module else spare
            output = value if values == 0 else (value, *[None] * (values - 1))
            old.append((module, module.__dict__.get("forward")))
            module.__dict__["forward"] = lambda *_, output=output, **__: output
        yield
    finally:
        for module, forward in old:
            if forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = forward


class Course:
    """Two networks that run over the same batches, each from its own states at a boundary.

    States are kept in memory, so that what comes before them runs once. The dense network shows
    where that is possible: with the state in place of what all earlier modules return, its outputs
    have to stay as they are.

    Args:
        networks: the dense network and the compressed one.
        batches: the inputs, shape (samples, …) each.
        run: computes a network's outputs.
    """

    def __init__(
        self, networks: tuple[nn.Module, nn.Module], batches: Sequence[Tensor], run: Run
    ) -> None:
        self._networks, self._batches, self._run = networks, batches, run
        self._few = batches[0][:_SAMPLES]
        self._timeline = Timeline(networks[0], run, self._few)
        self._boundary = Boundary()
        self._state: Tensor | None = None  # of a few samples, in the dense network
        self._states: list[tuple[Tensor | None, Tensor | None]] = [(None, None)] * len(batches)
        self._known = {name for name, _ in networks[1].named_modules()}

    def reads(
        self, batch: int, modules: Sequence[str], calls: int
    ) -> tuple[list[Read], list[Read]]:
        """What some modules read in both networks, in one batch."""
        dense, pruned = (
            self._from(i, batch, lambda m, x: read(m, modules, x, self._run, calls))
            for i in range(2)
        )
        return dense, pruned

    def move(self, modules: Sequence[str], after: tuple[Sequence[str], int]) -> None:
        """Move on to a boundary shortly before some modules, if there is one.

        Args:
            modules: names of modules, which read next.
            after: names of these and of the modules that read after them, and how often they read.
        """
        for new in islice(self._timeline.before(modules), _TRIED):
            if new.module == self._boundary.module:
                return
            state = self._state_if_complete(new, *after)
            if state is not None and self._fits(new):
                self._states = [
                    (self._ahead(0, i, new), self._ahead(1, i, new))
                    for i in range(len(self._batches))
                ]
                self._boundary, self._state = new, state
                return

    def _from(self, network: int, batch: int, do: Callable[[nn.Module, Tensor], T]) -> T:
        model = self._networks[network]
        with resumed(model, self._boundary, self._states[batch][network]):
            return do(model, self._batches[batch])

    def _ahead(self, network: int, batch: int, new: Boundary) -> Tensor:
        """The state of a network at a later boundary."""
        return self._from(network, batch, lambda m, x: state_at(m, new, x, self._run))

    def _fits(self, new: Boundary) -> bool:
        """Whether the states at a boundary fit into memory, to judge by the last batch."""
        state = self._ahead(0, len(self._batches) - 1, new)
        return 2 * len(self._batches) * state.nbytes <= MOST

    def _state_if_complete(
        self, new: Boundary, modules: Sequence[str], calls: int
    ) -> Tensor | None:
        """The state of a few samples at a boundary; None if something else decides the reads."""
        dense, few = self._networks[0], self._few
        if not self._known.issuperset(name for name, _ in new.stubs):
            return None
        with resumed(dense, self._boundary, self._state):
            state = state_at(dense, new, few, self._run)
            expected = read(dense, modules, few, self._run, calls)
        try:
            with resumed(dense, new, state):
                arrived = read(dense, modules, few, self._run, calls)
            same = len(arrived) == len(expected) and all(
                equal(a, b) for (_, a), (_, b) in zip(arrived, expected, strict=True)
            )
            if same:  # a whole run takes longer
                with resumed(dense, new, state):
                    same = equal(self._run(dense, few), self._timeline.outputs)
        # A user's network may raise anything where the state stands for what other modules return.
        except Exception:
            return None
        return state if same else None


def _parents(name: str) -> Iterator[str]:
    """The names of the modules around a module, except the network itself."""
    while name := module_of(name):
        yield name


def _state(output: Any) -> Tensor | None:
    """The tensor that a module returned, alone or first of several values."""
    first = output[0] if isinstance(output, tuple) and output else output
    return first if isinstance(first, Tensor) else None
