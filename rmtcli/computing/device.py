"""Decompose layers on an accelerator, with torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from rmtcli.arrays import FloatArray
from rmtcli.errors import UsageError, first_line
from rmtcli.spectra import Spectrum, row_blocks
from rmtcli.spectra.gram import of_gram, unit_of

#: Kinds of devices for which layers are decomposed on the CPU: MPS has no float64.
_CPU_KINDS = ("cpu", "mps")


@contextmanager
def using(device: str) -> Iterator[None]:
    """Report in one line that a device cannot be used, for what runs in the ``with`` block.

    Raises:
        UsageError: the device cannot be used.
    """
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device '{device}' cannot be used: {first_line(error)}") from None


def best_device() -> str:
    """Return the accelerator that torch can use, ``cuda`` or ``mps``, or else ``cpu``."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def has_solver(device: str) -> bool:
    """Whether layers are decomposed on a device itself, and not on the CPU instead.

    Raises:
        UsageError: the device cannot be used.
    """
    with using(device):
        kind = torch.device(device).type
        if kind not in _CPU_KINDS:
            torch.empty(1, dtype=torch.float64, device=device)
    return kind not in _CPU_KINDS


@dataclass(frozen=True, slots=True, eq=False)
class Eigenvectors:
    """All eigenvectors of a Gram matrix.

    Attributes:
        basis: shape (p, p), one eigenvector per column, ascending by eigenvalue.
    """

    basis: FloatArray

    def vectors(self, count: int) -> FloatArray:
        """Eigenvectors of the largest eigenvalues, largest first, shape (p, count).

        Raises:
            ValueError: ``count`` is not from 0 to p.
        """
        p = len(self.basis)
        if not 0 <= count <= p:
            raise ValueError(f"a matrix of {p} has no {count} eigenvectors")
        return self.basis[:, p - count :][:, ::-1]


@dataclass(frozen=True, slots=True)
class OnDevice:
    """Decomposes weights on one device, through the float64 Gram matrix.

    Attributes:
        device: torch's name of the device, such as ``cuda:1``.
    """

    device: str

    def spectrum(self, weight: NDArray[np.floating], *, vectors: bool = False) -> Spectrum:
        """The spectrum of a weight. Equivalent to :func:`rmtcli.spectra.spectrum`.

        Args:
            weight: shape (out, in).
            vectors: whether the result can compute singular vectors.

        Raises:
            LinAlgError: the solver did not converge.
        """
        unit, p = unit_of(weight), min(weight.shape)
        gram = torch.zeros(p, p, dtype=torch.float64, device=self.device)
        for _, block in row_blocks(weight, unit):
            part = torch.from_numpy(block).to(self.device)
            gram.addmm_(part.T, part)
        if not vectors:
            with _reported():
                values = torch.linalg.eigvalsh(gram)
            return of_gram(values.cpu().numpy(), unit, weight.shape)
        own, basis = _eigh(gram)
        return of_gram(own, unit, weight.shape, Eigenvectors(basis))

    def eigh(self, matrix: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Eigenvalues of a symmetric matrix, ascending, and eigenvectors.

        Equivalent to ``numpy.linalg.eigh``.

        Args:
            matrix: shape (p, p); its lower triangle is read.

        Raises:
            LinAlgError: the solver did not converge.
        """
        return _eigh(torch.from_numpy(np.ascontiguousarray(matrix)).to(self.device))


def _eigh(matrix: Tensor) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues and eigenvectors, copied to the processor."""
    with _reported():
        values, vectors = torch.linalg.eigh(matrix)
    return values.cpu().numpy(), vectors.cpu().numpy()


@contextmanager
def _reported() -> Iterator[None]:
    """Report a solver that did not converge as NumPy does."""
    try:
        yield
    except LinAlgError as error:
        raise np.linalg.LinAlgError(str(error)) from None
