"""The tensors that replace others, when layers are compressed and when that is undone."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Checkpoint, Edited, Edits, RawTensor, encode
from rmtcli.checkpoint.names import bias_of, module_of, weight_of
from rmtcli.checkpoint.spill import Spill, Spilled, Stored
from rmtcli.errors import LayerError
from rmtcli.layers import Layer
from rmtcli.layouts.base import LAYOUTS, Layout
from rmtcli.layouts.factored import Factored, is_table
from rmtcli.options import option
from rmtcli.spectra import Factors


class Replacements:
    """The tensors in the place of compressed layers, made layer by layer.

    A bias follows its weight. Siblings' right factor is one tensor under several names. New tensors
    wait in a temporary file, so that memory holds one layer, or siblings until all have come.

    Args:
        checkpoint: the network that the layers come from.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._edits: dict[str, Mapping[str, Stored]] = {}
        self._spill = Spill()
        self._biases: dict[str, Stored] = {}  # biases that share a storage continue to share it
        self._wholes: dict[str, Spilled] = {}  # tensors of which parts are replaced
        self._siblings: dict[tuple[Layout, str], list[tuple[Layer, Factors]]] = {}

    def add(self, layer: Layer, factors: Factors, layout: Layout, group: str | None = None) -> None:
        """Store one compressed layer.

        Args:
            layer: the layer.
            factors: its low-rank approximation.
            layout: how it is stored; siblings have one.
            group: name of the first of the layers that share its right factor; None if none do.

        Raises:
            LayerError: a value is beyond the range of the layer's type.
        """
        if group is not None:
            self._siblings.setdefault((layout, group), []).append((layer, factors))
            return
        shape = self.checkpoint.infos[layer.tensor].shape
        values = layout.compress(layer, factors, shape)
        parts = [self._new(layer, part) for part in values.values()]
        self._replace(layer, layout, parts, factors.shift)

    def finish(self) -> Edits:
        """For each tensor that is replaced, the tensors in its place.

        Raises:
            LayerError: a value of siblings is beyond the range of their type.
        """
        for (layout, _), members in self._siblings.items():
            self._add_siblings(layout, *zip(*members, strict=True))
        self._siblings.clear()
        return self._edits

    def _add_siblings(
        self, layout: Layout, layers: Sequence[Layer], factors: Sequence[Factors]
    ) -> None:
        """Store layers that share the first of their tensors."""
        shapes = [self.checkpoint.infos[layer.tensor].shape for layer in layers]
        shared: list[Stored] = []
        values = layout.compress_siblings(layers, factors, shapes)
        for layer, mine, parts in zip(layers, factors, values, strict=True):
            new = [self._new(layer, part) for part in [*parts.values()][len(shared) :]]
            self._replace(layer, layout, [*shared, *new], mine.shift)
            shared = shared or new[: layout.shared_parts]

    def _replace(
        self, layer: Layer, layout: Layout, parts: Sequence[Stored], shift: FloatArray | None
    ) -> None:
        """Put tensors in the place of a layer's weight and bias, under all names of the weight."""
        for weight in (layer.tensor, *layer.tied):
            if weight != layer.tensor and self._tied_again(layer.tensor, weight):
                self._edits[weight] = {}
                continue
            self._edits[weight] = dict(zip(layout.names(weight), parts, strict=True))
            bias = bias_of(weight)
            whole = layer.view.rows is None and not layer.view.table
            if bias in self.checkpoint.infos and whole:
                new = layout.bias_name(weight)
                self._edits[bias] = {new: self._bias(bias, shift)}

    def _tied_again(self, table: str, weight: str) -> bool:
        """Whether a name that shares a table's storage is left out, as transformers ties it again.

        Only in directories: in a file, it is the name of the same factors.
        """
        ties = self.checkpoint.aliases
        one = ties.get(table, table) == ties.get(weight, weight)
        return one and self.checkpoint.about.linear_only

    def _new(self, layer: Layer, values: FloatArray | NDArray[np.int32]) -> Stored:
        """A new tensor, or the whole tensor in which the layer's part is replaced."""
        made, rows = encoded(self.checkpoint, layer.name, values, layer.dtype), layer.view.rows
        if rows is None:
            return self._spill.keep(made)
        if layer.tensor not in self._wholes:
            self._wholes[layer.tensor] = self._spill.keep(self.checkpoint.raw(layer.tensor))
        self._wholes[layer.tensor].put(rows[0], made)
        return self._wholes[layer.tensor]

    def _bias(self, name: str, shift: FloatArray | None) -> Stored:
        first = self.checkpoint.aliases.get(name, name)
        if first not in self._biases:
            self._biases[first] = self._spill.keep(_shifted(self.checkpoint, name, shift))
        return self._biases[first]


def join(checkpoint: Checkpoint) -> Edits:
    """Undo :class:`Replacements` for every split module of a checkpoint.

    Raises:
        LayerError: there are none, or the file does not hold the factors that its manifest names.
    """
    modules = split_modules(checkpoint)
    if not modules:
        raise LayerError(
            f"{checkpoint.path}: holds no factors that rmtcli wrote: there is nothing to undo"
        )
    edits: dict[str, Mapping[str, Stored]] = {}
    spill = Spill()
    ties = checkpoint.aliases
    made: dict[object, Stored] = {}  # weights and biases that several names share
    for module in modules:
        layout, weight = layout_of(checkpoint, module), weight_of(module)
        layout.check(checkpoint, module)
        names = layout.names(weight)
        first, dtype = (
            tuple(ties.get(name, name) for name in names),
            checkpoint.infos[names[0]].dtype,
        )
        if first not in made:
            values = layout.decompress(checkpoint, module)
            made[first] = spill.keep(encoded(checkpoint, module, values, dtype))
        # In place of the last tensor: siblings may share the first, which then has tied names.
        edits |= {name: {} for name in names[:-1]} | {names[-1]: {weight: made[first]}}
        bias = layout.bias_name(weight)
        if bias in checkpoint.infos:
            raw = made.setdefault(ties.get(bias, bias), checkpoint.raw(bias))
            edits[bias] = {bias_of(weight): raw}
    return edits


def split_modules(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The split modules of a checkpoint: those of its manifest, or else those that look like it.

    The manifest is lost where another program saves the tensors again. A module looks split if it
    holds the tensors of a layout, which fit together and are smaller than a weight, and no others.
    """
    if checkpoint.manifest is not None and checkpoint.manifest.factored:
        return tuple(checkpoint.manifest.factored)
    members: dict[str, set[str]] = {}
    for name in checkpoint.infos:
        parent = module_of(name)
        while parent:
            parent = module_of(parent)
            members.setdefault(parent, set()).add(name)
    return tuple(module for module in members if _looks_split(checkpoint, module, members[module]))


def _looks_split(checkpoint: Checkpoint, module: str, members: Collection[str]) -> bool:
    """Whether a module has the tensors of a layout that splits, and no others."""
    layout, weight = recognised(checkpoint, module), weight_of(module)
    if layout is None:
        return False
    names = layout.names(weight)
    try:
        layout.check(checkpoint, module)
    except LayerError:
        return False
    first, last = (checkpoint.infos[name] for name in (names[0], names[-1]))
    inputs = first.shape[:1] if is_table(first, last) else first.shape[1:]
    size = last.shape[0] * math.prod(inputs)
    smaller = sum(info.size for name in names if (info := checkpoint.infos[name]).counts) < size
    return smaller and {*members} <= {*names, layout.bias_name(weight)}


def layout_of(checkpoint: Checkpoint, module: str) -> Layout:
    """The layout in which a checkpoint holds a split module, recognised by its tensors' names.

    If there is none, the factored layout, whose check then says that the tensors are missing.
    """
    return recognised(checkpoint, module) or Factored()


def recognised(checkpoint: Checkpoint, module: str) -> Layout | None:
    """The layout that has all its tensors for a module in a checkpoint; None if there is none.

    If several have, the one with most tensors.
    """
    weight, names = weight_of(module), checkpoint.infos.keys()
    layouts = [LAYOUTS.parse(name) for name in LAYOUTS.choices]
    matches = [x for x in layouts if x.splits and names >= set(x.names(weight))]
    return max(matches, key=lambda layout: len(layout.names(weight)), default=None)


def check_factors(checkpoint: Checkpoint, module: str) -> None:
    """Make sure that a checkpoint holds the factors of a module that its manifest names.

    Raises:
        LayerError: they are missing, or do not fit together.
    """
    layout_of(checkpoint, module).check(checkpoint, module)


def with_values(network: Edited, values: Mapping[str, FloatArray]) -> Edited:
    """A pruned checkpoint with other values for some of its tensors, in their types.

    Args:
        network: the checkpoint; a tensor that it stores once under several names is stored once.
        values: by name.

    Raises:
        LayerError: a value is beyond the range of its type.
    """
    spill, made = Spill(), dict[int, Stored]()

    def new(name: str, old: Stored | None) -> Stored:
        if name not in values and old is not None:
            return old
        if old is None or id(old) not in made:
            kept = spill.keep(encoded(network, name, values[name], network.infos[name].dtype))
            if old is None:
                return kept
            made[id(old)] = kept
        return made[id(old)]

    edits = {
        name: {key: new(key, stored) for key, stored in group.items()}
        for name, group in network.edits.items()
    }
    known = {key for group in edits.values() for key in group}
    edits |= {name: {name: new(name, None)} for name in values if name not in known}
    return Edited(network.source, edits, network.manifest)


def encoded(
    checkpoint: Checkpoint, name: str, values: FloatArray | NDArray[np.int32], dtype: str
) -> RawTensor:
    """Values in a layer's type; positions are whole numbers in any.

    Raises:
        LayerError: a value is beyond the range of the type.
    """
    try:
        return encode(values, "I32" if values.dtype.kind == "i" else dtype)
    except OverflowError as error:
        raise LayerError(
            f"{checkpoint.path}: {name}: {error}: leave it out with {option('exclude', name)}"
        ) from None


def _shifted(checkpoint: Checkpoint, bias: str, shift: FloatArray | None) -> RawTensor:
    """A bias, plus the mean output of the dropped part of the weight where that is known."""
    if shift is None:
        return checkpoint.raw(bias)
    values = checkpoint.array(bias).astype("f8") + shift
    return encoded(checkpoint, bias, values, checkpoint.infos[bias].dtype)
