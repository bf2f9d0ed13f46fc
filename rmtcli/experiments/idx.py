"""Data sets such as MNIST, in the four IDX files that they are published as."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rmtcli.errors import EvaluationError, UsageError

Bytes = NDArray[np.uint8]


def read_split(folder: Path, split: str) -> tuple[Bytes, Bytes]:
    """Read the images and labels of one split.

    Args:
        folder: folder with ``<split>-images-idx3-ubyte`` and ``<split>-labels-idx1-ubyte``, plain
            or gzipped (``.gz``).
        split: ``train`` or ``t10k``.

    Returns:
        Images as rows of bytes, shape (samples, pixels), and their labels, shape (samples,).

    Raises:
        UsageError: a file does not exist.
        EvaluationError: a file is damaged, or the numbers of images and labels differ.
    """
    images = read_idx(_find(folder, f"{split}-images-idx3-ubyte"), 3)
    labels = read_idx(_find(folder, f"{split}-labels-idx1-ubyte"), 1)
    if len(images) != len(labels):
        raise EvaluationError(
            f"{folder}: {len(images)} images and {len(labels)} labels in the split '{split}'"
        )
    return images.reshape(len(images), -1), labels


def read_idx(path: Path, axes: int) -> Bytes:
    """Read the array in an IDX file (LeCun, 1998): a magic number, big-endian sizes, then bytes.

    Args:
        path: the file, gzipped if its name ends in ``.gz``.
        axes: number of axes that the array must have.

    Raises:
        EvaluationError: the file is not an IDX file of bytes with this number of axes, or is cut
            short.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise EvaluationError(f"{path}: cannot be read ({error})") from None
    head = 4 * (1 + axes)
    if len(data) < head or data[:4] != bytes((0, 0, 8, axes)):
        raise EvaluationError(f"{path}: not an IDX file of bytes with {axes} axes")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", axes, 4))
    if len(data) != head + math.prod(shape):
        raise EvaluationError(f"{path}: holds {len(data) - head} bytes, not {math.prod(shape)}")
    return np.frombuffer(bytearray(data[head:]), np.uint8).reshape(shape)


def _find(folder: Path, name: str) -> Path:
    """Return the path of a file, plain or gzipped.

    Raises:
        UsageError: the folder has neither.
    """
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise UsageError(f"{folder}: has no file {name} or {name}.gz")
