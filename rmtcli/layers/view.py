"""How a stored tensor holds a layer's matrix: the way there and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Checkpoint

#: Gates of a recurrent layer, in the order in which torch stacks their rows.
GATES = {4: ("input", "forget", "cell", "output"), 3: ("reset", "update", "new")}


@dataclass(frozen=True, slots=True)
class View:
    """One matrix in a stored tensor.

    Attributes:
        rows: first and last (excluded) entry along the tensor's first axis; None for all.
        stacked: whether these rows are one matrix of a stack.
        transposed: whether the matrix is stored as in × out.
        kernel: shape of a convolution's kernel, which is flattened into the inputs; else empty.
        label: what sets the matrix apart from others in the same tensor.
        splits: whether two tensors can take its place, which is so where a module of its own
            multiplies by it.
    """

    rows: tuple[int, int] | None = None
    stacked: bool = False
    transposed: bool = False
    kernel: tuple[int, ...] = ()
    label: str = ""
    splits: bool = True

    def shape(self, stored: tuple[int, ...]) -> tuple[int, int]:
        """The matrix's shape (out, in), from the tensor's."""
        part = stored if self.rows is None else (self.rows[1] - self.rows[0], *stored[1:])
        part = part[1:] if self.stacked else part
        out, inputs = part[0], int(np.prod(part[1:]))
        return (inputs, out) if self.transposed else (out, inputs)

    def load(self, checkpoint: Checkpoint, name: str) -> NDArray[np.floating]:
        """The matrix, shape (out, in), exactly; nothing but its part of the tensor is read."""
        stored = checkpoint.array(name, self.rows)
        out, inputs = self.shape(checkpoint.infos[name].shape)
        return stored.reshape(inputs, out).T if self.transposed else stored.reshape(out, inputs)

    def stored(self, matrix: FloatArray, shape: tuple[int, ...]) -> FloatArray:
        """The matrix as it stands in a tensor of this shape, or in its part of one."""
        matrix = matrix.T if self.transposed else matrix
        if self.rows is None:
            return matrix.reshape(shape)
        return matrix.reshape(self.rows[1] - self.rows[0], *shape[1:])

    def factors(self, left: FloatArray, right: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Two factors as the modules in the layer's place hold them.

        Those are linear maps, out × r and r × in, whichever way the weight was stored; or
        convolutions: one with the layer's kernel, r × in × kernel, and one that has a single place,
        out × r × 1 × …
        """
        if not self.kernel:
            return left, right
        ones = (1,) * len(self.kernel)
        return left.reshape(*left.shape, *ones), right.reshape(len(right), -1, *self.kernel)


#: The whole tensor as it is.
WHOLE = View()
