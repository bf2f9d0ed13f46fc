"""Calibration inputs: files, inputs that are made and named like files, and inputs in memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmtcli.checkpoint.hashes import file_sha256
from rmtcli.errors import EvaluationError, UsageError
from rmtcli.options import option
from rmtcli.registry import Registry

#: In place of a file: ranks and factors from the weights alone.
NONE = "none"
#: Shortest and longest sentence, in characters.
LEAST, MOST = 30, 300


@dataclass(frozen=True, slots=True)
class MadeInputs:
    """Texts that need no file.

    Attributes:
        lines: number of texts.
        seed: seed of the random draws.
    """

    lines: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.lines < 2:
            raise ValueError(f"lines must be at least 2, not {self.lines}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, not {self.seed}")


SOURCES: Registry[MadeInputs] = Registry("calibration input", "rmtcli.sources")


@SOURCES.register("tokens")
@dataclass(frozen=True, slots=True)
class RandomTokens(MadeInputs):
    """Texts of random tokens of a directory's tokenizer, about as frequent as in text."""


@SOURCES.register("prose")
@dataclass(frozen=True, slots=True)
class Prose(MadeInputs):
    """English sentences of Python's own documentation, which is installed with Python."""

    def texts(self) -> list[str]:
        """The sentences, in random order; all of them if there are fewer than ``lines``.

        Raises:
            EvaluationError: this Python was installed without its documentation.
        """
        try:
            topics = import_module("pydoc_data.topics").topics
        except ImportError:
            raise EvaluationError(
                f"{option('calib', 'prose')}: this Python has no module 'pydoc_data': give a file "
                "instead"
            ) from None
        texts = list(dict.fromkeys(s for topic in topics.values() for s in sentences(topic)))
        order = np.random.default_rng(self.seed).permutation(len(texts))
        return [texts[i] for i in order[: self.lines]]


def sentences(text: str) -> list[str]:
    """The sentences of a text's paragraphs that hold no code, markup or symbols."""
    kept = []
    for paragraph in re.split(r"\n\s*\n", text):
        if re.search(r"^\s*>>>|^\s*[-=*~]{3,}|::", paragraph, re.M):
            continue
        for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", " ".join(paragraph.split())):
            whole = re.fullmatch(r"[A-Z][^`{}<>|\\=]*[.!?]", sentence)
            if whole and LEAST <= len(sentence) <= MOST:
                kept.append(sentence)
    return kept


@dataclass(frozen=True, slots=True, eq=False)
class GivenInputs:
    """Inputs in memory, which :func:`~rmtcli.calibration.given.given_inputs` makes.

    Attributes:
        words: what they are, in messages and reports.
        inputs: shape (samples, …): the network's inputs; or tokens, shape (samples, 2 or 3,
            positions): token numbers, mask and perhaps segments. Empty for texts.
        targets: shape (samples, …); None without labels.
        texts: texts that a tokenizer has to read.
        tokens: whether the inputs are tokens.
        images: whether the inputs are the pixels of images, for a model of transformers.
    """

    words: str
    inputs: NDArray[Any]
    targets: NDArray[Any] | None = None
    texts: tuple[str, ...] = ()
    tokens: bool = False
    images: bool = False

    def __str__(self) -> str:
        return self.words

    @property
    def sha256(self) -> str:
        """Hash of the inputs."""
        whole = sha256(f"{self.inputs.dtype} {self.inputs.shape}".encode())
        whole.update(np.ascontiguousarray(self.inputs).data)
        whole.update("\n".join(self.texts).encode())
        return whole.hexdigest()


@dataclass(frozen=True, slots=True)
class FileShare:
    """A random share of the samples of a file, written ``file@40%``, or of given inputs.

    Attributes:
        path: the file, or the inputs.
        percent: how many of its samples, in percent.
    """

    path: Path | GivenInputs
    percent: int

    def __str__(self) -> str:
        return f"{self.path}@{self.percent}%"


Part = Path | GivenInputs | FileShare | MadeInputs
#: Inputs as settings hold them: a text that names a file or inputs that are made, or the inputs.
Data = str | Path | GivenInputs | FileShare


def parts_of(data: Data) -> list[Part]:
    """The parts of ``data``: a file, inputs that are made, or several of them joined by ``+``.

    Inputs that are given are one part.

    Raises:
        UsageError: an option of inputs that are made is unknown or out of range.
    """
    if isinstance(data, GivenInputs | FileShare):
        return [data]
    made: list[str] = []
    file: list[str] = []
    for piece in str(data).split("+"):
        named = piece.partition(":")[0] in SOURCES.choices
        (made if named else file).append(piece)
    files = [_file("+".join(file))] if file else []
    return [*files, *(SOURCES.parse(piece) for piece in made)]


def _sha256(part: Path | GivenInputs) -> str:
    if isinstance(part, GivenInputs):
        return part.sha256
    hashes = [file_sha256(file) for file in files_in(part)]
    return hashes[0] if len(hashes) == 1 else sha256("".join(hashes).encode()).hexdigest()


def _file(spelling: str) -> Path | FileShare:
    """A file, or a share of it.

    Raises:
        UsageError: the share is not between 1 and 99 %.
    """
    share = re.fullmatch(r"(.+)@(\d+)%", spelling)
    if share is None:
        return Path(spelling)
    if not 1 <= int(share[2]) <= 99:
        raise UsageError(f"{spelling}: a share of a file must be from 1% to 99%")
    return FileShare(Path(share[1]), int(share[2]))


def is_made(data: Data) -> bool:
    """Whether some of the inputs are made."""
    return any(isinstance(part, MadeInputs) for part in parts_of(data))


def files_of(data: Data) -> tuple[Path, ...]:
    """The files among the parts of ``data``."""
    parts = (part.path if isinstance(part, FileShare) else part for part in parts_of(data))
    return tuple(file for part in parts if isinstance(part, Path) for file in files_in(part))


def files_in(path: Path) -> tuple[Path, ...]:
    """The files that a path names: one, or two as in ``x.npy,y.npy``."""
    pieces = str(path).split(",")
    pair = len(pieces) == 2 and all(piece.endswith(".npy") for piece in pieces)
    return tuple(map(Path, pieces)) if pair else (path,)


def spelled(data: Data) -> str:
    """The parts of ``data`` with all options, joined by ``+``."""
    return "+".join(
        SOURCES.spell(part) if isinstance(part, MadeInputs) else str(part)
        for part in parts_of(data)
    )


def data_sha256(data: Data) -> str:
    """Hash of inputs in a file or in memory; of inputs that are made, of options and sentences."""
    parts = parts_of(data)
    if len(parts) == 1 and isinstance(parts[0], Path | GivenInputs):
        return _sha256(parts[0])
    whole = sha256()
    for part in parts:
        if isinstance(part, MadeInputs):
            whole.update(SOURCES.spell(part).encode())
        elif isinstance(part, FileShare):
            whole.update(f"{_sha256(part.path)}@{part.percent}".encode())
        else:
            whole.update(_sha256(part).encode())
        if isinstance(part, Prose):  # it differs between versions of Python
            whole.update("\n".join(part.texts()).encode())
    return whole.hexdigest()
