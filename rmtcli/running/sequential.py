"""Fit each layer again, on the outputs of the compressed layers before it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rmtcli.arrays import FloatArray
from rmtcli.calibration import Moments, redirect
from rmtcli.calibration.watch import rows_of
from rmtcli.computing.steps import tracked
from rmtcli.running.resume import Course, Run, read
from rmtcli.spectra import Factors

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """The dense layer that a layer is fitted to.

    Attributes:
        weight: shape (out, in).
        bias: whether the layer has a bias that can correct the mean of its outputs.
        gradient: shape (out, out), second moment of its output gradients, or None.
    """

    weight: NDArray[np.floating]
    bias: bool
    gradient: FloatArray | None


@dataclass(frozen=True, slots=True, eq=False)
class RefitStep:
    """One layer to fit again.

    Attributes:
        modules: names of the modules that hold its weight, in both networks.
        rank: rank of its factors.
        target: reads the dense layer, whose arrays are in memory while it is fitted.
    """

    modules: Sequence[str]
    rank: int
    target: Callable[[], Target]


@torch.no_grad()
def refit(
    dense: nn.Module,
    pruned: nn.Module,
    steps: Mapping[str, RefitStep],
    inputs: NDArray[Any],
    run: Run,
    put: Callable[[str, Factors], None],
    *,
    batch: int,
    masks: Callable[[], Sequence[Tensor]] = tuple,
) -> None:
    """Fit the layers one after another, in the order in which the network runs them.

    A layer's targets are its outputs in the dense network. Its inputs are those it gets in the
    compressed network, where the layers before it are fitted already. Layers that read the same
    tensors are fitted together. Both networks run from states that are kept (:class:`Course`), so
    that the time grows in proportion to their depth.

    Args:
        dense: the dense network.
        pruned: the compressed network.
        steps: the layers, by name.
        inputs: shape (samples, …).
        run: computes a network's outputs.
        put: stores a layer's new factors in the compressed network.
        batch: samples per forward pass.
        masks: returns, once a batch has run through the dense network, masks of its positions that
            hold tokens; none for all.
    """
    batches = [
        torch.from_numpy(np.array(inputs[start : start + batch]))
        for start in range(0, len(inputs), batch)
    ]
    course = Course((dense, pruned), batches, run)
    groups = _groups(dense, steps, batches[0], run)
    for k, (names, calls) in enumerate(groups):
        label = f"fitting again: {', '.join(names)}"
        _LOGGER.info("%s", label)
        modules, sums = steps[names[0]].modules, _Sums()
        near = groups[k : k + 2]  # what the next group reads shows what else is needed
        after = [module for group, _ in near for module in steps[group[0]].modules]
        course.move(modules, (after, sum(count for _, count in near)))
        for i in tracked(range(len(batches)), label):
            for (_, x), (_, y) in zip(*course.reads(i, modules, calls), strict=True):
                sums.add(rows_of(x, masks()), rows_of(y, masks()))
        for name in names:
            put(name, sums.fit(steps[name], len(inputs)))


@dataclass
class _Sums:
    """Running sums over a layer's inputs: x in the dense network, y in the compressed one."""

    rows: int = 0
    x: FloatArray = field(default_factory=lambda: np.zeros(()))
    y: FloatArray = field(default_factory=lambda: np.zeros(()))
    xy: FloatArray = field(default_factory=lambda: np.zeros(()))
    yy: FloatArray = field(default_factory=lambda: np.zeros(()))

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows, shape (rows, in) each."""
        x, y = x.double(), y.double()
        self.rows += len(x)
        self.x = self.x + x.sum(0).cpu().numpy()
        self.y = self.y + y.sum(0).cpu().numpy()
        self.xy = self.xy + (x.T @ y).cpu().numpy()
        self.yy = self.yy + (y.T @ y).cpu().numpy()

    def fit(self, step: RefitStep, samples: int) -> Factors:
        """The best factors of one layer that reads these inputs."""
        n, target = self.rows, step.target()
        moments = Moments(n, samples, self.y / n, self.yy / n, target.gradient)
        known = {"mean": self.x / n, "cross": self.xy / n}
        fit = redirect(target.weight, moments, **known, bias=target.bias)
        return fit.factors(step.rank)


def _groups(
    model: nn.Module, steps: Mapping[str, RefitStep], inputs: Tensor, run: Run
) -> list[tuple[list[str], int]]:
    """Group the layers that read the same tensors, in the order of their first reads.

    Returns:
        Names of each group's layers, and how many tensors one of these layers reads per run.
    """
    owner = {module: name for name, step in steps.items() for module in step.modules}
    numbers: dict[int, int] = {}
    reads: dict[str, list[int]] = {}
    for module, tensor in read(model, list(owner), inputs, run):
        reads.setdefault(owner[module], []).append(numbers.setdefault(id(tensor), len(numbers)))
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, tensors in reads.items():
        groups.setdefault(tuple(tensors), []).append(name)
    return [(names, len(tensors)) for tensors, names in groups.items()]
