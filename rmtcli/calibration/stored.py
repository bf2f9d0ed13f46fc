"""Moments in files, so that memory holds those of one layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.calibration.folder import Folder
from rmtcli.calibration.moments import Moments
from rmtcli.calibration.symmetric import half, whole

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

    def put(self, part: str, moments: Iterable[tuple[str, Moments]]) -> None:
        """Store the moments of a part, of which those of one layer are made at a time."""
        seconds: list[FloatArray] = []
        names, firsts, graded = list[str](), list[int](), list[bool]()
        for number, (name, own) in enumerate(moments):
            same = (i for i, known in enumerate(seconds) if known is own.second)
            first = next(same, number)
            arrays = _arrays(own, inputs=first == number)
            if own.fold is not None:
                arrays |= {f"fold_{k}": x for k, x in _arrays(own.fold, inputs=True).items()}
            self._folder.put(f"{part}-{number}", arrays)
            seconds.append(own.second)
            names.append(name)
            firsts.append(first)
            graded.append(own.gradient is not None)
        known = {
            "names": np.array(names, np.str_),
            "firsts": np.array(firsts, np.int64),
            "graded": np.array(graded, np.bool_),
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
        arrays |= {"mean": moments.mean, "second": half(moments.second)}
    if moments.gradient is not None:
        arrays["gradient"] = half(moments.gradient)
    return arrays


def _moments(arrays: Mapping[str, NDArray[Any]]) -> Moments:
    """The moments that :func:`_arrays` took apart."""
    rows, samples, of_outputs, *worth = arrays["numbers"].tolist()
    gradient = whole(arrays["gradient"]) if "gradient" in arrays else None
    mean = arrays["mean"].astype(np.float64)
    independent, of_gradients = (None if math.isnan(x) else x for x in worth)
    values = int(rows), int(samples), mean, whole(arrays["second"]), gradient
    return Moments(*values, bool(of_outputs), independent, of_gradients)
