"""Moments in files, so that memory holds those of one layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.calibration.folder import Folder
from rmtcli.calibration.moments import Moments

#: What is stored of moments beside their arrays.
_NUMBERS = ("rows", "samples", "of_outputs", "independent", "independent_gradients")


class StoredMoments(Mapping[str, Moments]):
    """Moments by name, each read from its file when it is asked for.

    They are stored in parts, each of which is there completely or not at all. Of a symmetric
    matrix, one half is stored, and what several layers of a part read is stored once.

    Args:
        folder: where they are stored.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        #: The file of each layer, and that of the first layer which reads the same tensors.
        self._files: dict[str, tuple[str, str]] = {}
        self._graded: set[str] = set()

    def put(self, part: str, moments: Mapping[str, Moments]) -> None:
        """Store the moments of a part."""
        firsts: dict[int, int] = {}
        for number, own in enumerate(moments.values()):
            first = firsts.setdefault(id(own.second), number)
            arrays = _arrays(own, inputs=first == number)
            if own.fold is not None:
                arrays |= {f"fold_{k}": x for k, x in _arrays(own.fold, inputs=True).items()}
            self._folder.put(f"{part}-{number}", arrays)
        known = {
            "names": np.array(list(moments), np.str_),
            "firsts": np.array([firsts[id(own.second)] for own in moments.values()], np.int64),
            "graded": np.array([own.gradient is not None for own in moments.values()], np.bool_),
        }
        self._folder.put(part, known)
        self.know(part)

    def know(self, part: str) -> bool:
        """Whether a part is there, whose moments are known from now on."""
        known = self._folder.get(part)
        if known is None:
            return False
        rows = zip(*(known[key] for key in ("names", "firsts", "graded")), strict=True)
        for number, (name, first, graded) in enumerate(rows):
            self._files[str(name)] = f"{part}-{number}", f"{part}-{first}"
            if graded:
                self._graded.add(str(name))
        return True

    def has_gradient(self, name: str) -> bool:
        """Whether there is a moment of a layer's output gradients."""
        return name in self._graded

    def __getitem__(self, name: str) -> Moments:
        file, first = self._files[name]
        own, inputs = self._folder.read(file), self._folder.read(first, "mean", "second")
        fold = {k.removeprefix("fold_"): x for k, x in own.items() if k.startswith("fold_")}
        return replace(_moments(own | inputs), fold=_moments(fold) if fold else None)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _arrays(moments: Moments, *, inputs: bool) -> dict[str, NDArray[Any]]:
    """The contents of moments as arrays; those of the inputs if asked for."""
    numbers = [getattr(moments, name) for name in _NUMBERS]
    arrays = {"numbers": np.array([math.nan if x is None else x for x in numbers], np.float64)}
    if inputs:
        arrays |= {"mean": moments.mean, "second": _half(moments.second)}
    if moments.gradient is not None:
        arrays["gradient"] = _half(moments.gradient)
    return arrays


def _moments(arrays: Mapping[str, NDArray[Any]]) -> Moments:
    """The moments that :func:`_arrays` took apart."""
    rows, samples, of_outputs, *worth = arrays["numbers"].tolist()
    gradient = _whole(arrays["gradient"]) if "gradient" in arrays else None
    mean = arrays["mean"].astype(np.float64)
    independent, of_gradients = (None if math.isnan(x) else x for x in worth)
    values = int(rows), int(samples), mean, _whole(arrays["second"]), gradient
    return Moments(*values, bool(of_outputs), independent, of_gradients)


def _half(matrix: FloatArray) -> FloatArray:
    """The rows of a symmetric matrix from the diagonal on, one after the other."""
    return np.concatenate([row[i:] for i, row in enumerate(matrix)])


def _whole(half: NDArray[np.floating]) -> FloatArray:
    """The symmetric matrix of which :func:`_half` is the half, in float64."""
    size = (math.isqrt(8 * len(half) + 1) - 1) // 2
    matrix, start = np.empty((size, size)), 0
    for i in range(size):
        row = half[start : start + size - i]
        matrix[i, i:], matrix[i:, i] = row, row
        start += size - i
    return matrix
