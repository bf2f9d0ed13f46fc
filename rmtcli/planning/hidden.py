"""The hidden layers of a checkpoint that can be made narrower, and what that does to its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from rmtcli.checkpoint import Checkpoint, Edits
from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.checkpoint.names import member
from rmtcli.keep import Untouched
from rmtcli.layers import Block, Layer
from rmtcli.layouts import Narrow, NarrowBlock, narrow_edits
from rmtcli.planning.fit import Fitted, LayerCalibration
from rmtcli.planning.plan import LayerPlan, plan_layer
from rmtcli.planning.widths import Side, Table, WidthAllocation

if TYPE_CHECKING:
    from rmtcli.calibration import HeadNarrowing, Narrowing

#: The number of a hidden layer, one of its blocks, and the order of that block's units.
Owner: TypeAlias = "tuple[int, Block, Narrowing | HeadNarrowing]"


@dataclass(frozen=True, slots=True, eq=False)
class HiddenLayer:
    """A hidden layer, or several that get one width.

    Attributes:
        blocks: the layers around them.
        narrowings: the order of each one's units.
        entry: the entry of a directory's ``config.json`` that gives the width, if all hidden layers
            of this entry have one; None for a file, and where no entry gives it.
    """

    blocks: tuple[Block, ...]
    narrowings: tuple[Narrowing | HeadNarrowing, ...]
    entry: str | None = None

    @property
    def units(self) -> int:
        """The dense width."""
        return self.blocks[0].units

    def at(self, width: int) -> list[NarrowBlock]:
        """The blocks at a width."""
        pairs = zip(self.blocks, self.narrowings, strict=True)
        return [NarrowBlock(block, narrowing, width) for block, narrowing in pairs]


@dataclass(frozen=True, eq=False)
class HiddenLayers:
    """All hidden layers of a checkpoint that can be made narrower.

    Attributes:
        checkpoint: the dense network.
        layers: its layers, by name.
        hidden: its hidden layers.
        around: names of the layers around all hidden layers, those included that cannot be made
            narrower.
        directory: whether the network is a directory's, in which a configuration or the loader
            gives modules their shapes.
    """

    checkpoint: Checkpoint
    layers: Mapping[str, Layer]
    hidden: tuple[HiddenLayer, ...]
    around: frozenset[str]
    directory: bool = False

    @property
    def dense(self) -> list[int]:
        """The dense widths."""
        return [item.units for item in self.hidden]

    def at(self, widths: Sequence[int]) -> NarrowNetwork:
        """The network at these widths of the hidden layers."""
        pairs = list(zip(self.hidden, widths, strict=True))
        chosen: dict[str, set[int]] = {}
        for hidden, width in pairs:
            if hidden.entry is not None:
                chosen.setdefault(hidden.entry, set()).add(width)
        entries = {entry: min(some) for entry, some in chosen.items() if len(some) == 1}
        narrow = [(h, w) for h, w in pairs if w < h.units]
        changed = {h.entry for h, _ in narrow}
        return NarrowNetwork(
            self,
            tuple(block for h, w in narrow for block in h.at(w)),
            {entry: width for entry, width in entries.items() if entry in changed},
            frozenset(b for h, _ in narrow if h.entry not in entries for b in h.blocks)
            if self.directory
            else frozenset(),
        )

    def allocation(
        self, calibrations: Mapping[str, LayerCalibration], unit: str, multiple: int
    ) -> WidthAllocation:
        """The hidden layers among which a budget is divided, with what their widths cost.

        Args:
            calibrations: by layer name.
            unit: of the budget: ``parameters``, ``bytes`` or ``macs``.
            multiple: widths are multiples of it.
        """

        def price(layer: Layer) -> int:
            if unit == "macs":
                known = calibrations.get(layer.name)
                return 1 if known is None else max(1, round(known.moments.uses))
            return TYPES[layer.dtype].width if unit == "bytes" else 1

        tables = list(self._weights(price))
        if unit == "macs":
            total = sum(price(layer) * layer.size for layer in self.layers.values())
        else:
            tables += self._vectors(price, counted=unit == "bytes")
            total = self.checkpoint.bytes if unit == "bytes" else self.checkpoint.parameters
        losses = [np.sum([n.losses for n in h.narrowings], axis=0) for h in self.hidden]
        return WidthAllocation(losses, tables, total, multiple)

    def shape(self, layer: Layer, widths: Sequence[int]) -> tuple[int, int]:
        """(out, in) of a layer at these widths of the hidden layers."""
        rows, columns = self._sides(layer)
        return rows.at(widths), columns.at(widths)

    def _sides(self, layer: Layer) -> tuple[Side, Side]:
        """The rows and columns of a layer, each fixed or the width of a hidden layer."""
        writes, reads = self.writes.get(layer.name), self.reads.get(layer.name)
        return _side(layer.shape[0], writes), _side(layer.shape[1], reads)

    @cached_property
    def writes(self) -> Mapping[str, Owner]:
        """The hidden layer whose units each writer computes."""
        return self._owners(lambda block: block.writers)

    @cached_property
    def reads(self) -> Mapping[str, Owner]:
        """The hidden layer whose units each reader reads."""
        return self._owners(lambda block: block.readers)

    def _owners(self, names: Callable[[Block], Sequence[str]]) -> Mapping[str, Owner]:
        return {
            name: (i, block, narrowing)
            for i, item in enumerate(self.hidden)
            for block, narrowing in zip(item.blocks, item.narrowings, strict=True)
            for name in names(block)
        }

    def _weights(self, price: Callable[[Layer], int]) -> Iterator[Table]:
        for name in self.around:
            yield Table(*self._sides(self.layers[name]), price(self.layers[name]))

    def _vectors(self, price: Callable[[Layer], int], *, counted: bool) -> Iterator[Table]:
        """The biases of writers, and other vectors; whole numbers only if counted."""
        infos = self.checkpoint.infos
        for i, item in enumerate(self.hidden):
            for block in item.blocks:
                for layer in (self.layers[name] for name in block.writers):
                    if member(layer.module, "bias") in infos:
                        yield Table(self._sides(layer)[0], Side(1), price(layer))
                for info in (infos[name] for name in block.vectors):
                    if counted or info.counts:
                        size = TYPES[info.dtype].width if counted else 1
                        yield Table(Side(item.units, i), Side(1), size)


@dataclass(frozen=True, eq=False)
class NarrowNetwork:
    """A network with some hidden layers narrower.

    Attributes:
        source: the dense network's hidden layers.
        blocks: the blocks of the narrower ones.
        entries: the configuration's entries that change.
        own: those of the blocks, in a directory, whose width no entry gives.
    """

    source: HiddenLayers
    blocks: tuple[NarrowBlock, ...]
    entries: Mapping[str, int]
    own: frozenset[Block] = frozenset()

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """The new shape of each layer that changes, by name."""
        return self._shapes(self.blocks)

    @property
    def loaded(self) -> Mapping[str, tuple[int, int]]:
        """The new shape of each layer that no configuration gives it, by name."""
        names = {name for block in self.own for name in block.layers}
        return {name: shape for name, shape in self.shapes.items() if name in names}

    @property
    def given(self) -> Mapping[str, tuple[int, int]]:
        """The shapes that the configuration gives these layers, by name."""
        shapes = self._shapes([item for item in self.blocks if item.block not in self.own])
        return {name: shapes.get(name, self.source.layers[name].shape) for name in self.loaded}

    def _shapes(self, blocks: Sequence[NarrowBlock]) -> dict[str, tuple[int, int]]:
        """The shapes of the layers of some blocks, if these alone become narrower."""
        shapes = {n: self.source.layers[n].shape for item in blocks for n in item.block.layers}
        for item in blocks:
            side = item.block.sides(item.width)
            shapes |= {name: (side, shapes[name][1]) for name in item.block.writers}
            shapes |= {name: (shapes[name][0], side) for name in item.block.readers}
        return shapes

    @cached_property
    def losses(self) -> Mapping[str, float]:
        """The predicted loss of each reader, as a share of that of dropping all its units."""
        losses: dict[str, float] = {}
        for item in self.blocks:
            whole = item.narrowing.loss(0)
            loss = item.narrowing.loss(item.width) / whole if whole else 0.0
            # Queries have the loss of their pair: keys see them as maps of lower rank.
            losses |= dict.fromkeys(item.block.readers or item.block.writers[:1], loss)
        return losses

    def edits(self) -> Edits:
        """The tensors that take the place of those around the narrower hidden layers."""
        return narrow_edits(self.source.checkpoint, self.source.layers, self.blocks)

    def plan(self, item: Fitted, why: Untouched) -> LayerPlan:
        """The plan of one layer.

        Args:
            item: the layer.
            why: the reason for leaving it alone if its hidden layers keep their widths.
        """
        name, widths = item.layer.name, self.source
        if name not in widths.around:
            why = Untouched.NO_BLOCK
        elif not any(name in b.layers for hidden in widths.hidden for b in hidden.blocks):
            why = Untouched.NO_ENTRY
        plan = plan_layer(item, why, layout=Narrow())
        if name not in self.shapes:
            return plan
        loss = self.losses.get(name)
        return replace(plan, untouched=None, narrowed=self.shapes[name], predicted_loss=loss)


def _side(size: int, owner: Owner | None) -> Side:
    """A layer's side of a size, which a hidden layer may own."""
    return Side(size) if owner is None else Side(size, owner[0], max(1, owner[1].heads))
