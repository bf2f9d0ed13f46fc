"""Each layer fitted once more, on what the compressed layers before it really give."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rmtcli.arrays import FloatArray
from rmtcli.calibration import Moments, redirect
from rmtcli.calibration.collect import rows_of
from rmtcli.spectra import Factors

_LOGGER = logging.getLogger(__name__)

Run = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One layer that is to be fitted again.

    Attributes:
        modules: the modules that hold its weight, in either network.
        weight: shape (out, in), of the dense layer.
        rank: rank of its factors.
        bias: whether a bias can make up for the mean.
        gradient: shape (out, out), the moment of its output gradients, or None.
    """

    modules: Sequence[str]
    weight: NDArray[np.floating]
    rank: int
    bias: bool
    gradient: FloatArray | None


@torch.no_grad()
def refit(
    dense: nn.Module,
    pruned: nn.Module,
    steps: Mapping[str, Step],
    inputs: NDArray[Any],
    run: Run,
    put: Callable[[str, Factors], None],
    *,
    batch: int,
    mask: Callable[[], Tensor | None] = lambda: None,
) -> None:
    """Fit layer after layer, in the order in which the network runs through them.

    A layer's target is what the dense layer gives in the dense network; its inputs are those in the
    compressed one, where the layers before it have been fitted already. Layers that read the same
    tensors are fitted together; each such group takes one pass through both networks.

    Args:
        dense: the dense network.
        pruned: the compressed one.
        steps: the layers, by name.
        inputs: shape (samples, …).
        run: gives a network's class scores.
        put: stores a layer's new factors in the compressed network.
        batch: samples that run at a time.
        mask: gives, once a batch has run through the dense network, which of its positions count;
            None for all.
    """
    for names, calls in _groups(dense, steps, inputs[:batch], run):
        _LOGGER.info("fitting once more: %s", ", ".join(names))
        modules, sums = steps[names[0]].modules, _Sums()
        for start in range(0, len(inputs), batch):
            chunk = inputs[start : start + batch]
            both = (_read(model, modules, chunk, run, calls) for model in (dense, pruned))
            for (_, x), (_, y) in zip(*both, strict=True):
                sums.add(rows_of(x, mask()), rows_of(y, mask()))
        for name in names:
            put(name, sums.fit(steps[name], len(inputs)))


@dataclass
class _Sums:
    """Running sums over what a layer reads: x in the dense network, y in the compressed one."""

    rows: int = 0
    x: FloatArray = field(default_factory=lambda: np.zeros(()))
    y: FloatArray = field(default_factory=lambda: np.zeros(()))
    xy: FloatArray = field(default_factory=lambda: np.zeros(()))
    yy: FloatArray = field(default_factory=lambda: np.zeros(()))

    def add(self, x: Tensor, y: Tensor) -> None:
        x, y = x.double(), y.double()
        self.rows += len(x)
        self.x = self.x + x.sum(0).cpu().numpy()
        self.y = self.y + y.sum(0).cpu().numpy()
        self.xy = self.xy + (x.T @ y).cpu().numpy()
        self.yy = self.yy + (y.T @ y).cpu().numpy()

    def fit(self, step: Step, samples: int) -> Factors:
        n = self.rows
        seen = Moments(n, samples, self.y / n, self.yy / n, step.gradient)
        found = redirect(step.weight, seen, mean=self.x / n, cross=self.xy / n, bias=step.bias)
        return found.factors(step.rank)


def _groups(
    model: nn.Module, steps: Mapping[str, Step], inputs: NDArray[Any], run: Run
) -> list[tuple[list[str], int]]:
    """Names of layers that read the same tensors, in the order in which they first do.

    With each group comes how many reads one of its layers does in a run.
    """
    owner = {module: name for name, step in steps.items() for module in step.modules}
    places: dict[int, int] = {}
    reads: dict[str, list[int]] = {}
    for module, tensor in _read(model, list(owner), inputs, run):
        reads.setdefault(owner[module], []).append(places.setdefault(id(tensor), len(places)))
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, read in reads.items():
        groups.setdefault(tuple(read), []).append(name)
    return [(names, len(read)) for read, names in groups.items()]


class _Enough(BaseException):
    """All that was wanted of a run is there; no error, so that no network's handlers catch it."""


def _read(
    model: nn.Module, modules: Sequence[str], inputs: NDArray[Any], run: Run, calls: int = 0
) -> list[tuple[str, Tensor]]:
    """The tensors that some modules read in one run, in order; it ends after so many calls."""
    found: list[tuple[str, Tensor]] = []

    def note(name: str, tensor: Tensor) -> None:
        found.append((name, tensor))
        if len(found) == calls:
            raise _Enough

    with _hooked(model, modules, note), suppress(_Enough):
        run(model, torch.from_numpy(np.array(inputs)))
    return found


@contextmanager
def _hooked(
    model: nn.Module, modules: Sequence[str], note: Callable[[str, Tensor], None]
) -> Iterator[None]:
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: note(name, args[0])
        )
        for name in modules
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
