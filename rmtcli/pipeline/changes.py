"""What training changed: the differences between two checkpoints of one network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rmtcli.checkpoint import Checkpoint, Openable, RawTensor, decode, open_checkpoint
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.errors import LayerError
from rmtcli.layers import Layer, Selection
from rmtcli.pipeline.factors import whole
from rmtcli.pipeline.stages import layers_of

#: Entries of a tensor that are compared at a time.
_ENTRIES = 2**22


@dataclass(frozen=True, slots=True)
class Changed:
    """A tensor that changed, and whose change no layer holds.

    Attributes:
        name: its name.
        shape: its shape after training.
        square: the sum of the squares of its change.
        resized: whether it has another number of rows than before.
    """

    name: str
    shape: tuple[int, ...]
    square: float
    resized: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A network before and after training.

    Attributes:
        base: the network before.
        tuned: the network after.
    """

    base: Checkpoint
    tuned: Checkpoint

    @staticmethod
    def open(base: Openable, tuned: Openable, key: str | None) -> Pair:
        """Open both; layers that rmtcli has split are multiplied back.

        Raises:
            LayerError: they have no tensor in common, or tensors of one name and different widths.
        """
        pair = Pair(*(whole(open_checkpoint(model, key=key)) for model in (base, tuned)))
        common = [name for name in pair.base.infos if name in pair.tuned.infos]
        if not common:
            raise LayerError(f"{base} and {tuned} have no tensor of the same name")
        for name in common:
            before, after = (x.infos[name].shape for x in (pair.base, pair.tuned))
            if before[1:] != after[1:] or (before != after and len(before) != 2):
                raise LayerError(
                    f"{base} and {tuned} are not one network before and after training: {name} has "
                    f"the shapes {before} and {after}"
                )
        return pair

    @property
    def only(self) -> list[tuple[str, str]]:
        """Names of tensors that only one has, and which one."""
        base, tuned = self.base.infos, self.tuned.infos
        alone = [(name, "BASE") for name in base if name not in tuned]
        return alone + [(name, "TUNED") for name in tuned if name not in base]

    def layers(self, selection: Selection | None) -> list[Layer]:
        """The layers of the base that both networks have in one shape."""
        items = layers_of(self.base, selection)
        return [x for x in items if isinstance(x, Layer) and self._alike(x.tensor)]

    def _alike(self, name: str) -> bool:
        other = self.tuned.infos.get(name)
        return other is not None and other.shape == self.base.infos[name].shape

    def change(self, layer: Layer) -> Layer:
        """The layer whose weight is the change: it reads both weights when it is read itself."""
        infos = (self.base.infos[layer.tensor], self.tuned.infos[layer.tensor])
        wide = "F64" if any(info.dtype == "F64" for info in infos) else "F32"
        return replace(layer, read=partial(self._difference, layer), dtype=wide)

    def _difference(self, layer: Layer) -> RawTensor:
        """W_tuned − W_base as it would be stored, in float32.

        Two numbers within a factor of two of each other differ by a number of the same type, so
        that the difference is exact where training changed little; elsewhere it is rounded by 6e-8
        of itself. It is in float64 where one of the weights is.
        """
        before, after = layer.read(), layer.view.read(self.tuned, layer.tensor)
        values = _minus(decode(after), decode(before))
        dtype = "F64" if values.dtype == np.float64 else "F32"
        return RawTensor(dtype, before.shape, values.reshape(-1).view(np.uint8))

    def others(self, layers: Sequence[Layer]) -> Iterator[Changed]:
        """The tensors that changed beside these layers, one after the other; ties count once."""
        covered = {name for layer in layers for name in (layer.tensor, *layer.tied)}
        for name in self.base.distinct:
            before, after = self.base.infos[name], self.tuned.infos.get(name)
            if after is None or name in covered or not {before.dtype, after.dtype} <= FLOATS.keys():
                continue
            resized = before.shape != after.shape
            square = sum(self._squares(name, min(before.shape[:1] + after.shape[:1], default=0)))
            if square or resized:
                yield Changed(name, after.shape, square, resized)

    def _squares(self, name: str, rows: int) -> Iterator[float]:
        """The sums of the squares of a tensor's change in some rows at a time, up to ``rows``."""
        shape = self.base.infos[name].shape
        step = max(1, _ENTRIES // max(1, math.prod(shape[1:])))
        parts = [(start, min(start + step, rows)) for start in range(0, rows, step)]
        for part in parts if shape else [None]:
            change = _minus(self.tuned.array(name, part), self.base.array(name, part))
            yield float(np.sum(np.square(change, dtype=np.float64)))


def _minus(after: NDArray[np.floating], before: NDArray[np.floating]) -> NDArray[np.floating]:
    """The difference of two arrays, in float64 if one of them is and in float32 otherwise."""
    wide = np.result_type(after.dtype, before.dtype, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # values that are not finite are refused
        return np.ascontiguousarray(np.subtract(after, before, dtype=wide))
