"""The interface that every layout implements, and the registry of layouts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.names import bias_of, weight_of
from rmtcli.errors import LayerError
from rmtcli.keep import Untouched
from rmtcli.layers import Layer
from rmtcli.registry import Registry
from rmtcli.spectra import Factors

if TYPE_CHECKING:
    from torch import nn

#: The tensors in the place of a weight, by name: values in float64, or positions as whole numbers.
Parts = Mapping[str, FloatArray | NDArray[np.int32]]


class Reconstruction(Protocol):
    """The approximated weight of one layer, computed from the tensors in a file."""

    def rows(self, rows: slice, unit: float) -> FloatArray:
        """The given rows of the tall matrix (the weight or its transpose), divided by ``unit``."""
        ...

    def rounding(self, half: float, least: float, unit: float) -> float:
        """An upper bound of the change that rounding the stored tensors makes to the weight.

        Args:
            half: largest relative rounding error of the stored type.
            least: its largest absolute rounding error among subnormal numbers.
            unit: largest absolute entry of the dense weight.

        Returns:
            The bound in the Frobenius norm, divided by ``unit``.
        """
        ...


class Layout(ABC):
    """How a compressed layer is stored, in both directions.

    Implementations are frozen dataclasses in :data:`LAYOUTS`; their fields are their options.

    Attributes:
        splits: whether several modules take the place of the layer's module. The manifest names
            the modules for which this was done, and whatever loads the file has to replace them.
        shared_parts: how many of a layer's tensors, the first ones in :meth:`names`, are the same
            tensor for layers that read the same input; 0 if they cannot share any.
        index_bytes: bytes per output of a layer that are no parameters, such as positions.
        shares: what siblings share, for a report.
        ranks: whether layers get ranks.
        narrows: whether hidden layers can become narrower, which changes the layers around one
            together.
        action: what a report says was done with a layer.
    """

    splits: ClassVar[bool]
    shared_parts: ClassVar[int] = 0
    index_bytes: ClassVar[int] = 0
    shares: ClassVar[str] = ""
    ranks: ClassVar[bool] = True
    narrows: ClassVar[bool] = False
    action: ClassVar[str]

    @abstractmethod
    def supports(self, layer: Layer) -> bool:
        """Whether the layer's module can hold the tensors of this layout."""

    @abstractmethod
    def largest_rank(self, outputs: int, inputs: int) -> int:
        """The largest rank at which a compressed layer of this shape is worth storing."""

    @property
    def choices(self) -> tuple[Layout, ...]:
        """The layouts among which that of each layer is chosen: this one, unless it is ``auto``."""
        return (self,)

    @abstractmethod
    def values(self, outputs: int, inputs: int, rank: int, *, shares: bool = False) -> int:
        """Number of values stored for a matrix of this shape at a rank, without its bias.

        Args:
            outputs: rows of the matrix.
            inputs: its columns.
            rank: its rank.
            shares: whether the shared parts are stored, and counted, with an earlier layer.
        """

    @abstractmethod
    def matrices(self, outputs: int, inputs: int, rank: int) -> tuple[tuple[int, int], ...]:
        """Shapes of the matrices that are stored for a matrix of this shape at a rank."""

    def macs(self, outputs: int, inputs: int, rank: int, *, shares: bool = False) -> int:
        """Multiply-adds for one input: one per stored value, and those of shared parts."""
        own = self.values(outputs, inputs, rank, shares=shares)
        return own + (rank * inputs if shares else 0)

    @abstractmethod
    def names(self, weight: str) -> tuple[str, ...]:
        """Names of the tensors that take the place of the tensor ``weight``."""

    @abstractmethod
    def bias_name(self, weight: str) -> str:
        """Name of the layer's bias after its tensor ``weight`` was replaced."""

    @abstractmethod
    def compress(self, layer: Layer, factors: Factors, shape: tuple[int, ...]) -> Parts:
        """The tensors that take the place of a layer's weight, keyed and ordered by :meth:`names`.

        Args:
            layer: the layer.
            factors: its low-rank approximation.
            shape: shape of the tensor that holds the layer. If the layer is a part of it, the
                result replaces that part.
        """

    def compress_siblings(
        self,
        layers: Sequence[Layer],
        factors: Sequence[Factors],
        shapes: Sequence[tuple[int, ...]],
    ) -> list[Parts]:
        """The result of :meth:`compress` for layers that share a right factor.

        Args:
            layers: the layers.
            factors: their approximations, with one right factor.
            shapes: shapes of the tensors that hold them.
        """
        return [self.compress(*each) for each in zip(layers, factors, shapes, strict=True)]

    @abstractmethod
    def decompress(self, checkpoint: Checkpoint, module: str) -> FloatArray:
        """The dense weight of a module that this layout has split, as the module stores it.

        Undoes :meth:`compress`, up to rounding: the weight is the approximated one.
        """

    @abstractmethod
    def reconstruct(self, checkpoint: Checkpoint, layer: Layer) -> Reconstruction:
        """The approximated weight of a layer, from a checkpoint written in this layout."""

    @abstractmethod
    def split(self, module: nn.Module, checkpoint: Checkpoint, name: str) -> nn.Module | None:
        """The torch module that takes the place of a module, ready for the checkpoint's values.

        Args:
            module: the dense module.
            checkpoint: holds the module's weight in this layout.
            name: the module's name in the checkpoint.

        Returns:
            The new module; None if a module of this kind cannot be split.
        """

    @abstractmethod
    def example(self, layer: nn.Linear, rank: int) -> nn.Module:
        """A module of random weights as it takes the place of a linear layer, to be timed."""

    def check(self, checkpoint: Checkpoint, module: str) -> None:
        """Make sure that a checkpoint holds the tensors of a module that this layout has split.

        Raises:
            LayerError: a tensor is missing, or the tensors do not fit together.
        """
        if not checkpoint.infos.keys() >= set(self.names(weight_of(module))):
            raise no_longer_whole(checkpoint, module)

    def new_names(self, layer: Layer) -> set[str]:
        """The names, new in the file, of a layer's tensors and bias under all its tied names."""
        names = set()
        for weight in (layer.tensor, *layer.tied):
            old = {weight, bias_of(weight)}
            names |= {*self.names(weight), self.bias_name(weight)} - old
        return names

    def refusal(self, layer: Layer, rank: int, taken: Collection[str]) -> Untouched | None:
        """Why a layer cannot be stored in this layout at a rank, or None if it can.

        Args:
            layer: the layer.
            rank: above 0 and below full rank.
            taken: names of tensors in the checkpoint.
        """
        if not self.new_names(layer).isdisjoint(taken):
            return Untouched.NAME_TAKEN
        if not self.supports(layer):
            return undivided(layer)
        return Untouched.NOT_SMALLER if rank > self.largest_rank(*layer.shape) else None


LAYOUTS: Registry[Layout] = Registry("layout", "rmtcli.layouts")


def undivided(layer: Layer) -> Untouched:
    """Why no two tensors can take the place of a layer whose view does not split."""
    return Untouched.OTHERS if layer.view.others else Untouched.NO_FACTORS


def own_shape(checkpoint: Checkpoint, outputs: int, inputs: int) -> tuple[int, int] | None:
    """(out, in) of a split layer in a file with rmtcli's record of narrower hidden layers.

    None for any other file, so that a file of another network does not fit a module.
    """
    manifest = checkpoint.manifest
    return (outputs, inputs) if manifest is not None and manifest.narrowed else None


def no_longer_whole(checkpoint: Checkpoint, module: str) -> LayerError:
    """The error for a split module whose tensors are missing or do not fit together."""
    return LayerError(
        f"{checkpoint.path}: the factors of '{module}' are missing or do not fit together: "
        "the file was changed after rmtcli wrote it"
    )
