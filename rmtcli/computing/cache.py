"""Decompositions that are kept on the disk, by the hash of the weight."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.errors import UsageError
from rmtcli.files import write_file
from rmtcli.spectra import Spectrum, spectrum
from rmtcli.spectra.tridiagonal import Tridiagonal

#: Changes with what is kept or how it is computed.
_VERSION = "rmtcli spectrum 1"
_HASH_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of decompositions; whoever has the same weight need not decompose it again.

    A file holds a layer's eigenvalues and the tridiagonal form of its Gram matrix, which any number
    of vectors are made from: 4p² bytes, which is at most what the weight takes in float32. Its name
    is the hash of the weight, and at its end is the hash of what it holds: a file that is damaged
    is made anew. Files appear whole, so that several programs may share a folder, and may be
    deleted at any time.

    Attributes:
        folder: where they are; it must exist.
    """

    folder: Path

    @staticmethod
    def at(folder: str | Path) -> Cache:
        """A cache in a folder, which is made where it does not exist.

        Raises:
            UsageError: it cannot be made or written to.
        """
        path = Path(folder)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError:
            raise UsageError(f"{path}: no folder can be made there for the cache") from None
        if not os.access(path, os.W_OK):
            raise UsageError(f"{path}: the cache's folder may not be written to")
        return Cache(path)

    def spectrum(self, weight: NDArray[np.floating], *, vectors: bool = False) -> Spectrum:
        """That of :func:`rmtcli.spectra.spectrum`, which says what the arguments are."""
        path = self.folder / f"{_key(weight)}.spectrum"
        found = _read(path, max(weight.shape), min(weight.shape))
        if found is None:
            found = spectrum(weight, vectors=True)
            write_file(path, lambda file: _write(file, found))
        return found if vectors else Spectrum(found.eigenvalues, found.n, found.p)


def _key(weight: NDArray[np.floating]) -> str:
    digest = hashlib.sha256(f"{_VERSION} {weight.dtype.str} {weight.shape} ".encode())
    digest.update(np.ascontiguousarray(weight).data)
    return digest.hexdigest()


def _parts(eigenvalues: FloatArray, form: Tridiagonal) -> Iterator[FloatArray]:
    """What a file holds, in its order; of the reflections, what is below the diagonal."""
    yield from (eigenvalues, form.diagonal, form.beside, form.scales)
    yield from (form.reflections[j + 1 :, j] for j in range(len(form.diagonal)))


def _write(file: BinaryIO, found: Spectrum) -> None:
    assert isinstance(found.form, Tridiagonal)
    digest = hashlib.sha256()
    for part in _parts(found.eigenvalues, found.form):
        digest.update(part.data)
        file.write(part.data)
    file.write(digest.digest())


def _read(path: Path, n: int, p: int) -> Spectrum | None:
    """What the file holds; None where there is none, or it is damaged."""
    eigenvalues, diagonal = np.empty((2, p))
    beside, scales = np.empty((2, p - 1))
    form = Tridiagonal(diagonal, beside, np.zeros((p, p), order="F"), scales)
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for part in _parts(eigenvalues, form):
                file.readinto(part.view(np.uint8).data)
                digest.update(part.data)
            if file.read(_HASH_BYTES + 1) != digest.digest():
                return None
    except FileNotFoundError:
        return None
    return Spectrum(eigenvalues, n, p, form)
