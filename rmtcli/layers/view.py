"""How a stored tensor holds a layer's matrix: reading it, and putting one back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Checkpoint, RawTensor
from rmtcli.checkpoint.dtypes import decode

#: Gates of a recurrent layer by their number, in the order in which torch stacks their rows.
GATES = {1: ("",), 4: ("input", "forget", "cell", "output"), 3: ("reset", "update", "new")}


@dataclass(frozen=True, slots=True)
class View:
    """One matrix in a stored tensor.

    Attributes:
        rows: first and last (excluded) index along the tensor's first axis; None for all of it.
        stacked: whether these rows are one matrix of a stack.
        transposed: whether the matrix is stored as in × out.
        table: whether rows of the tensor are looked up: the inputs are one-hot.
        recurrent: whether a recurrent layer multiplies by it.
        kernel: shape of a convolution's kernel, which is flattened into the inputs; else empty.
        label: distinguishes the matrix from others in the same tensor.
        splits: whether two tensors can take its place. They can if a module of its own multiplies
            by the matrix.
        others: whether that module holds other parameters, which modules in its place would lose.
    """

    rows: tuple[int, int] | None = None
    stacked: bool = False
    transposed: bool = False
    table: bool = False
    recurrent: bool = False
    kernel: tuple[int, ...] = ()
    label: str = ""
    splits: bool = True
    others: bool = False

    def shape(self, stored: tuple[int, ...]) -> tuple[int, int]:
        """The matrix's shape (out, in), from the whole tensor's."""
        part = stored if self.rows is None else (self.rows[1] - self.rows[0], *stored[1:])
        return self._shape(part)

    def _shape(self, part: tuple[int, ...]) -> tuple[int, int]:
        part = part[1:] if self.stacked else part
        first, rest = part[0], int(np.prod(part[1:]))
        return (rest, first) if self.transposed else (first, rest)

    def read(self, checkpoint: Checkpoint, name: str) -> RawTensor:
        """The matrix's part of the tensor as it is stored; nothing else is read."""
        return checkpoint.raw(name) if self.rows is None else checkpoint.rows(name, *self.rows)

    def matrix(self, raw: RawTensor) -> NDArray[np.floating]:
        """The exact values of what :meth:`read` returns, shape (out, in)."""
        out, inputs = self._shape(raw.shape)
        stored = decode(raw)
        return stored.reshape(inputs, out).T if self.transposed else stored.reshape(out, inputs)

    def stored(self, matrix: FloatArray, shape: tuple[int, ...]) -> FloatArray:
        """A matrix as a tensor of this shape, or the view's part of one, holds it."""
        matrix = matrix.T if self.transposed else matrix
        if self.rows is None:
            return matrix.reshape(shape)
        return matrix.reshape(self.rows[1] - self.rows[0], *shape[1:])

    def factors(self, left: FloatArray, right: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Two factors as the modules in the layer's place hold them.

        For a linear layer these are out × r and r × in, even if the weight was stored transposed.
        For a convolution, the right factor has the layer's kernel, r × in × kernel, and the left
        one is a 1 × 1 convolution, out × r × 1 × …. The right factor of a look-up table is a table
        too, in × r.
        """
        if self.table:
            return left, right.T
        if not self.kernel:
            return left, right
        ones = (1,) * len(self.kernel)
        return left.reshape(*left.shape, *ones), right.reshape(len(right), -1, *self.kernel)

    def matrices(self, left: FloatArray, right: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The factors, out × r and r × in, in what two modules hold: undoes :meth:`factors`."""
        if self.table:
            return left, right.T
        return left.reshape(len(left), -1), right.reshape(len(right), -1)


#: The whole tensor as it is.
WHOLE = View()
#: A look-up table of tokens: the map from one-hot inputs to rows.
TABLE = View(transposed=True, table=True)
