"""What a network is used for: what it is fed, and what a row of its outputs is.

Nothing here imports torch or transformers before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol

from rmtcli.errors import UsageError
from rmtcli.evaluation.data import Samples, read_samples
from rmtcli.evaluation.text import (
    embedding_samples,
    image_samples,
    labelled_samples,
    language_samples,
    pooling_of,
)
from rmtcli.registry import Registry

#: From what a transformers model returns and the mask of its inputs to rows of outputs.
Head = Callable[[Any, Any], Any]


class Rows(Enum):
    """What one row of a network's outputs is."""

    CLASSES = "class scores"
    VECTORS = "embeddings, of which the direction counts"


class Task(Protocol):
    """How a network is fed, and what comes out of it.

    Attributes:
        rows: what a row of outputs is.
        auto: transformers' Auto class for it; empty for a network of the user's own.
        batch: samples that run at a time.
    """

    rows: ClassVar[Rows]
    auto: ClassVar[str]
    batch: ClassVar[int]

    def read(self, path: Path, directory: Path, part: str = "") -> Samples:
        """Samples from a file; texts are tokenised as the directory says."""
        ...

    def head(self, directory: Path) -> Head:
        """What makes rows of outputs of a transformers model's own."""
        ...


@dataclass(frozen=True, slots=True)
class Arrays:
    """A network of the user's own, fed with arrays; its outputs are class scores."""

    rows: ClassVar[Rows] = Rows.CLASSES
    auto: ClassVar[str] = ""
    batch: ClassVar[int] = 1024

    def read(self, path: Path, directory: Path, part: str = "") -> Samples:
        """The arrays ``inputs`` and ``targets``."""
        return read_samples(path, part)

    def head(self, directory: Path) -> Head:
        """The network's outputs are rows already."""
        return lambda found, mask: found


TASKS: Registry[Task] = Registry("task", "rmtcli.tasks")


@TASKS.register("text-classification")
@dataclass(frozen=True, slots=True)
class TextClassification:
    """Classes of texts, from JSON lines with 'text' ('text_pair') and 'label'.

    Attributes:
        length: tokens of a text that are read.
    """

    length: int = 256
    rows: ClassVar[Rows] = Rows.CLASSES
    auto: ClassVar[str] = "AutoModelForSequenceClassification"
    batch: ClassVar[int] = 32

    def __post_init__(self) -> None:
        _check_length(self.length)

    def read(self, path: Path, directory: Path, part: str = "") -> Samples:
        """Labels are class numbers, or names that the configuration knows."""
        return labelled_samples(path, directory, self.length)

    def head(self, directory: Path) -> Head:
        """The logits."""
        return lambda found, mask: found.logits


@TASKS.register("causal-lm")
@dataclass(frozen=True, slots=True)
class CausalLM:
    """The next token of a text file, read in blocks; perplexity.

    Attributes:
        length: tokens of a block.
    """

    length: int = 512
    rows: ClassVar[Rows] = Rows.CLASSES
    auto: ClassVar[str] = "AutoModelForCausalLM"
    batch: ClassVar[int] = 4

    def __post_init__(self) -> None:
        _check_length(self.length)

    def read(self, path: Path, directory: Path, part: str = "") -> Samples:
        """Whole blocks; what is left over at the end is not read."""
        return language_samples(path, directory, self.length)

    def head(self, directory: Path) -> Head:
        """A row for every position that has a next token."""
        return lambda found, mask: found.logits[:, :-1].flatten(0, 1)


@TASKS.register("sentence-embedding")
@dataclass(frozen=True, slots=True)
class SentenceEmbedding:
    """Embeddings of the lines of a text file; their cosine with the dense network's.

    Attributes:
        length: tokens of a text that are read.
    """

    length: int = 256
    rows: ClassVar[Rows] = Rows.VECTORS
    auto: ClassVar[str] = "AutoModel"
    batch: ClassVar[int] = 32

    def __post_init__(self) -> None:
        _check_length(self.length)

    def read(self, path: Path, directory: Path, part: str = "") -> Samples:
        """One text a line, or the 'text' of JSON lines."""
        return embedding_samples(path, directory, self.length)

    def head(self, directory: Path) -> Head:
        """The last hidden states pooled as the directory says, with length 1."""
        pooled = pooling_of(directory)

        def embed(found: Any, mask: Any) -> Any:
            vectors = pooled(found.last_hidden_state, mask)
            return vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-12)

        return embed


@TASKS.register("image-classification")
@dataclass(frozen=True, slots=True)
class ImageClassification:
    """Classes of images, from arrays of shape (samples, channels, height, width)."""

    rows: ClassVar[Rows] = Rows.CLASSES
    auto: ClassVar[str] = "AutoModelForImageClassification"
    batch: ClassVar[int] = 32

    def read(self, path: Path, directory: Path, part: str = "") -> Samples:
        """Bytes are scaled and normalised as the directory's image processor says."""
        return image_samples(path, directory, part)

    def head(self, directory: Path) -> Head:
        """The logits."""
        return lambda found, mask: found.logits


#: Ends of the names of transformers' classes, and what such networks are for.
_ARCHITECTURES = {
    "ForSequenceClassification": "text-classification",
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
    "ForImageClassification": "image-classification",
}


def task_of(directory: Path, spelling: str | None) -> Task:
    """The task that is named, or else the one that a directory's files tell.

    Raises:
        UsageError: an unknown task, none that the files tell, or transformers is not installed.
    """
    if find_spec("transformers") is None:
        raise UsageError(
            f"{directory}: running it needs transformers: pip install 'rmtcli[transformers]'"
        )
    if spelling is not None:
        return TASKS.parse(spelling)
    if (directory / "modules.json").is_file():
        return SentenceEmbedding()
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        names = [str(name) for name in config.get("architectures") or []]
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        names = []
    for end, task in _ARCHITECTURES.items():
        if any(name.endswith(end) for name in names):
            return TASKS.parse(task)
    known = ", ".join(TASKS.choices)
    raise UsageError(f"{directory}: does not tell what it is for: name a --task: {known}")


def _check_length(length: int) -> None:
    if length < 2:
        raise ValueError(f"length must be at least 2, not {length}")
