"""Watching a torch module run: hooks that add up the rows that its layers read and write."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from rmtcli.arrays import FloatArray
from rmtcli.calibration.moments import FOLD, Moments
from rmtcli.calibration.spread import joined
from rmtcli.calibration.sums import Sums
from rmtcli.calibration.symmetric import whole
from rmtcli.errors import EvaluationError

K = TypeVar("K")
#: Points from which the spreads of rows count: of what a group of layers reads, or of the outputs
#: of a single layer.
Centres = Mapping[tuple[str, ...], FloatArray]
#: Modules whose outputs are summed up, and not their inputs, by the number of a kernel's sides.
CONVOLUTIONS: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}


@dataclass(frozen=True, slots=True, eq=False)
class Totals:
    """Sums over some of the samples.

    Attributes:
        inputs: by the layers that read the same tensors.
        outputs: by layer.
        gradients: by layer.
    """

    inputs: dict[tuple[str, ...], Sums]
    outputs: dict[str, Sums]
    gradients: dict[str, Sums]


@dataclass
class Watch:
    """Sums over everything that some layers read and write, batch by batch.

    Attributes:
        gradients: whether the gradients of the layers' outputs are summed up.
        heads: linear layers that are tied to a table, of whose gradients only the norm counts.
        apart: layers of which a fold of the batches is kept apart.
        masks: gives masks of the batch's positions that count.
        dtype: type in which products are summed up.
        active: whether what runs now is recorded.
        centres: points from which the spreads of rows count; None for the first batch's means.
            Sums over parts of the samples can be merged if they have the same ones, which are 0
            where none is given.
        batches: number of batches that have ended, those of earlier parts included.
    """

    gradients: bool = False
    heads: Set[str] = frozenset()
    apart: Set[str] = frozenset()
    masks: Callable[[], Sequence[Tensor]] = tuple
    dtype: torch.dtype = torch.float64
    active: bool = True
    centres: Centres | None = None
    batches: int = 0
    #: The tensors read in this batch, by id and version, with the layers that read them. Holding
    #: the tensors keeps Python from giving their ids to others.
    _read: dict[tuple[int, int], tuple[Tensor, list[str]]] = field(default_factory=dict, init=False)
    _inputs: dict[tuple[str, ...], Sums] = field(default_factory=dict, init=False)
    _outputs: dict[str, Sums] = field(default_factory=dict, init=False)
    _gradients: dict[str, Sums] = field(default_factory=dict, init=False)

    @contextmanager
    def attached(self, model: nn.Module, layers: Collection[str]) -> Iterator[None]:
        """Record what some layers of a network read and write while the block runs."""
        modules = [(name, model.get_submodule(name)) for name in layers]
        hooks = [module.register_forward_hook(self._hook(name)) for name, module in modules]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def add_inputs(self) -> None:
        """Add the tensors of a batch to the sums, each once however many layers read it.

        Raises:
            EvaluationError: the network has changed one of them since.
        """
        for (_, version), (source, readers) in self._read.items():
            if source._version != version:
                raise EvaluationError(
                    f"the network changes the input of '{readers[0]}' in place after the layer has "
                    "read it, so it cannot be calibrated: let the network's code make a new tensor"
                )
            group = tuple(readers)
            sums = self._inputs.setdefault(group, self._new(group))
            sums.add(rows_of(source, self.masks()))
        self._read.clear()

    def close(self) -> None:
        """End a batch."""
        self.batches += 1
        mine = self.batches % FOLD == 0
        for group, sums in self._inputs.items():
            sums.close(apart=mine and not self.apart.isdisjoint(group))
        for every in (self._outputs, self._gradients):
            for name, sums in every.items():
                sums.close(apart=mine and name in self.apart)

    @property
    def means(self) -> Centres:
        """The points from which rows have counted so far."""
        every = self._inputs | {(name,): sums for name, sums in self._outputs.items()}
        centres = {key: sums.spread.centre for key, sums in every.items()}
        return {key: centre for key, centre in centres.items() if centre is not None}

    def merge(self, other: Totals) -> None:
        """Add the sums over another part of the samples; the order of the parts is kept."""
        _merge(self._inputs, other.inputs)
        _merge(self._outputs, other.outputs)
        _merge(self._gradients, other.gradients)

    @property
    def totals(self) -> Totals:
        """The sums so far."""
        return Totals(self._inputs, self._outputs, self._gradients)

    def moments(
        self, names: Iterable[str], samples: int, draws: int
    ) -> Iterator[tuple[str, Moments]]:
        """Yield some layers and their moments, without those that no input reached.

        A moment is made when it is asked for, from sums that are given up for it.

        Args:
            names: the layers' module names.
            samples: number of samples that went through the network.
            draws: number of backward passes per batch.
        """
        for name in names:
            moments = self._moments(name, samples, draws)
            if moments is not None:
                yield name, moments

    def _moments(self, name: str, samples: int, draws: int) -> Moments | None:
        """One layer's moments, from every group that it is in; None if no input reached it."""
        own = [(group.count(name), sums) for group, sums in self._inputs.items() if name in group]
        if name in self._outputs:
            own.append((1, self._outputs[name]))
        rows = sum(times * sums.rows for times, sums in own)
        if not rows:
            return None
        shares = [times * sums.rows / rows for times, sums in own]
        if len(own) == 1:  # layers that read the same tensors hold the same arrays
            mean, second = own[0][1].averages
        else:
            averages = [sums.averages for _, sums in own]
            mean = np.asarray(sum(s * a for s, (a, _) in zip(shares, averages, strict=True)))
            second = np.asarray(sum(s * b for s, (_, b) in zip(shares, averages, strict=True)))
        gradient, worth, of_outputs = None, None, name in self._outputs
        fold = self._fold(name, own, draws)
        if name in self._gradients:
            sums = self._gradients.pop(name)
            worth, gradient = sums.spread.independent, sums.spread.outer
            gradient /= rows * draws
        seen = joined(shares, [sums.spread.independent for _, sums in own])
        return Moments(rows, samples, mean, second, gradient, of_outputs, seen, worth, fold)

    def _fold(self, name: str, own: Sequence[tuple[int, Sums]], draws: int) -> Moments | None:
        """The moments of one layer over the fold that is kept apart, if it is kept of this layer.

        None for a layer that is in several groups.
        """
        kept = own[0][1].fold if len(own) == 1 and name in self.apart else None
        if kept is None:
            return None
        rows, total, entries = kept
        rows, gradient = rows * own[0][0], None
        if name in self._gradients:
            known = self._gradients[name].fold
            if known is None:
                return None
            gradient = whole(known[2], known[2].dtype) / (rows * draws)
        mean, second = total / kept[0], whole(entries, entries.dtype) / kept[0]
        return Moments(rows, 0, mean, second, gradient, name in self._outputs)

    def _new(self, key: tuple[str, ...]) -> Sums:
        """Sums without rows."""
        sums = Sums(dtype=self.dtype)
        if self.centres is not None:
            sums.spread.centre = self.centres.get(key, np.zeros(()))
        return sums

    def _hook(self, name: str) -> Callable[..., Tensor]:
        """Return a forward hook that records a layer's rows and, later, its output's gradient."""

        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not self.active:
                return output
            sides = next((n for kind, n in CONVOLUTIONS.items() if isinstance(module, kind)), 0)
            if sides:
                self._add_outputs(name, _by_position(output, sides), module._parameters["bias"])
            elif isinstance(module, nn.Embedding):
                self._add_outputs(name, output, None)
            else:
                source = args[0]
                key = id(source), source._version
                self._read.setdefault(key, (source, []))[1].append(name)
            if self.gradients:
                # Parameters require no gradient, so that the first layer's output starts the graph.
                # It is copied because the network may change it in place, which no graph can start
                # with.
                if not output.requires_grad:
                    output = output.detach().requires_grad_(True).clone()
                output.register_hook(  # type: ignore[no-untyped-call]
                    lambda gradient: self._add_gradient(name, gradient, sides)
                )
            return output

        return hook

    def _add_outputs(self, name: str, values: Tensor, bias: Tensor | None) -> None:
        """Add the outputs of one layer, without its bias, to its sums."""
        sums = self._outputs.setdefault(name, self._new((name,)))
        sums.add(rows_of(values, self.masks()), bias)

    def _add_gradient(self, name: str, gradient: Tensor, sides: int) -> None:
        """Add the output gradients of one layer to its sum; of a tied head, their norms."""
        norm = name in self.heads
        rows = gradient.norm(dim=-1, keepdim=True) if norm else _by_position(gradient, sides)
        sums = self._gradients.setdefault(name, Sums(centred=False, dtype=self.dtype))
        sums.add(rows_of(rows, self.masks()))


def _merge(mine: dict[K, Sums], theirs: dict[K, Sums]) -> None:
    """Add sums to those of the same layers."""
    for key, sums in theirs.items():
        if key in mine:
            mine[key].merge(sums)
        else:
            mine[key] = sums


def rows_of(values: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """Return the rows that count, shape (rows, width).

    Args:
        values: shape (…, width).
        masks: shape (samples, positions), true for positions with tokens and false for padding; no
            two have one shape. Where the shapes of values and masks do not fit, all rows count.
    """
    for mask in masks:
        if values.shape[:-1] == mask.shape:
            return values[mask]
        if values.ndim == 2 and len(values) == mask.numel():
            return values[mask.flatten()]
    return values.flatten(0, -2)


def _by_position(values: Tensor, sides: int) -> Tensor:
    """Return a convolution's outputs, (samples, channels, …) or one sample's, as rows of channels.

    Args:
        values: the outputs, or their gradients.
        sides: sides of the kernel; 0 for a linear layer or a table, whose outputs are rows.

    Returns:
        Shape (samples, positions, channels).
    """
    if not sides:
        return values
    values = values if values.ndim > sides + 1 else values.unsqueeze(0)
    return values.flatten(2).movedim(1, 2)
