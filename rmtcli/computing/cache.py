"""A cache of decompositions on disk, keyed by the hash of the weight."""

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

#: Part of each key; it changes when the contents of a file or their computation change.
_VERSION = "rmtcli spectrum 1"
_HASH_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of decompositions, one file per weight.

    A file holds a weight's eigenvalues and the tridiagonal form of its Gram matrix, from which any
    number of singular vectors can be computed. It takes 4p² bytes, at most as much as the weight in
    float32. Its name is the hash of the weight, and it ends with the hash of its contents: what a
    damaged file held is computed and written again. Files appear complete or not at all, so several
    programs may share a folder; they may be deleted at any time.

    Attributes:
        folder: the folder; it must exist.
    """

    folder: Path

    @staticmethod
    def at(folder: str | Path) -> Cache:
        """The cache in a folder, which is created if it does not exist.

        Raises:
            UsageError: the folder cannot be created or written to.
        """
        path = Path(folder)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError:
            raise UsageError(f"{path}: cannot create this folder for the cache") from None
        if not os.access(path, os.W_OK):
            raise UsageError(f"{path}: the folder of the cache is not writable")
        return Cache(path)

    def spectrum(self, weight: NDArray[np.floating], *, vectors: bool = False) -> Spectrum:
        """The spectrum of a weight, from its file or else computed and written to it.

        Equivalent to :func:`rmtcli.spectra.spectrum`.

        Args:
            weight: shape (out, in).
            vectors: whether the result can compute singular vectors.
        """
        path = self.folder / f"{_key(weight)}.spectrum"
        cached = _read(path, max(weight.shape), min(weight.shape))
        if cached is not None:
            result = cached
        else:
            result = spectrum(weight, vectors=True)
            write_file(path, lambda file: _write(file, result))
        return result if vectors else Spectrum(result.eigenvalues, result.n, result.p)


def _key(weight: NDArray[np.floating]) -> str:
    digest = hashlib.sha256(f"{_VERSION} {weight.dtype.str} {weight.shape} ".encode())
    digest.update(np.ascontiguousarray(weight).data)
    return digest.hexdigest()


def _parts(eigenvalues: FloatArray, form: Tridiagonal) -> Iterator[FloatArray]:
    """The arrays of a file, in order; of the reflections, the entries below the diagonal."""
    yield from (eigenvalues, form.diagonal, form.beside, form.scales)
    yield from (form.reflections[j + 1 :, j] for j in range(len(form.diagonal)))


def _write(file: BinaryIO, result: Spectrum) -> None:
    assert isinstance(result.form, Tridiagonal)
    digest = hashlib.sha256()
    for part in _parts(result.eigenvalues, result.form):
        digest.update(part.data)
        file.write(part.data)
    file.write(digest.digest())


def _read(path: Path, n: int, p: int) -> Spectrum | None:
    """The spectrum in a file; None if there is no such file or it is damaged."""
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
