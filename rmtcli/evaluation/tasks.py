"""Tasks: what a network is used for, which says how it is fed and what its outputs are.

This module imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol

from rmtcli.checkpoint.huggingface.config import read_object
from rmtcli.errors import CheckpointError, UsageError
from rmtcli.evaluation.data import Samples, read_samples
from rmtcli.evaluation.pooling import pooling_of
from rmtcli.evaluation.text import (
    embedding_samples,
    image_samples,
    labelled_samples,
    language_samples,
    line_samples,
)
from rmtcli.files import CONFIG
from rmtcli.registry import Registry

#: A function from the output of a transformers model, and the mask of its inputs, to rows.
Head = Callable[[Any, Any], Any]


class Rows(Enum):
    """The meaning of one row of a network's outputs."""

    CLASSES = "class scores"
    VECTORS = "embeddings, of which the direction counts"


class Task(Protocol):
    """How a network is fed, and what its outputs are.

    Attributes:
        rows: what a row of outputs is.
        auto: name of the transformers Auto class; empty for a network of the user's own.
        batch: samples per forward pass.
    """

    rows: ClassVar[Rows]
    auto: ClassVar[str]
    batch: ClassVar[int]

    def read(self, path: Path, directory: Path, part: str = "") -> Samples:
        """Read samples from a file, preprocessed with the directory's tokenizer or processor."""
        ...

    def head(self, directory: Path) -> Head:
        """The function from a transformers model's outputs to rows."""
        ...


@dataclass(frozen=True, slots=True)
class Arrays:
    """A network of the user's own that maps arrays to class scores."""

    rows: ClassVar[Rows] = Rows.CLASSES
    auto: ClassVar[str] = ""
    batch: ClassVar[int] = 1024

    def read(self, path: Path, directory: Path, part: str = "") -> Samples:
        """Read the arrays ``inputs`` and ``targets``."""
        return read_samples(path, part)

    def head(self, directory: Path) -> Head:
        """The identity: the network's outputs are rows already."""
        return lambda outputs, mask: outputs


TASKS: Registry[Task] = Registry("task", "rmtcli.tasks")


@TASKS.register("text-classification")
@dataclass(frozen=True, slots=True)
class TextClassification:
    """Classes of texts, from JSON lines with 'text' ('text_pair') and 'label'.

    Attributes:
        length: largest number of tokens per text; longer texts are truncated.
    """

    length: int = 256
    rows: ClassVar[Rows] = Rows.CLASSES
    auto: ClassVar[str] = "AutoModelForSequenceClassification"
    batch: ClassVar[int] = 32

    def __post_init__(self) -> None:
        _check_length(self.length)

    def read(self, path: Path, directory: Path, part: str = "") -> Samples:
        """Read texts and labels; a label is a class number or a name in ``label2id``."""
        return labelled_samples(path, directory, self.length)

    def head(self, directory: Path) -> Head:
        """The logits, one row per sample."""
        return lambda outputs, mask: outputs.logits


@TASKS.register("causal-lm")
@dataclass(frozen=True, slots=True)
class CausalLM:
    """The next token of a text file, read in blocks or line by line; perplexity.

    Attributes:
        length: tokens per block, or the largest number of tokens per line.
        lines: 1 if each line, or the 'text' of each JSON line, is a text of its own; 0 if blocks
            are cut from all of the text.
    """

    length: int = 512
    lines: int = 0
    rows: ClassVar[Rows] = Rows.CLASSES
    auto: ClassVar[str] = "AutoModelForCausalLM"
    batch: ClassVar[int] = 4

    def __post_init__(self) -> None:
        _check_length(self.length)
        if self.lines not in (0, 1):
            raise ValueError(f"lines must be 0 or 1, not {self.lines}")

    def read(self, path: Path, directory: Path, part: str = "") -> Samples:
        """Read whole blocks, without a shorter rest at the end of the text; or read lines."""
        if self.lines:
            return line_samples(path, directory, self.length)
        return language_samples(path, directory, self.length)

    def head(self, directory: Path) -> Head:
        """The logits, one row per position that has a next token."""
        return lambda outputs, mask: outputs.logits[:, :-1][mask[:, 1:]]


@TASKS.register("sentence-embedding")
@dataclass(frozen=True, slots=True)
class SentenceEmbedding:
    """Embeddings of the lines of a text file; their cosine with the dense network's.

    Attributes:
        length: largest number of tokens per text; longer texts are truncated.
    """

    length: int = 256
    rows: ClassVar[Rows] = Rows.VECTORS
    auto: ClassVar[str] = "AutoModel"
    batch: ClassVar[int] = 32

    def __post_init__(self) -> None:
        _check_length(self.length)

    def read(self, path: Path, directory: Path, part: str = "") -> Samples:
        """Read one text per line, or the 'text' of each JSON line."""
        return embedding_samples(path, directory, self.length)

    def head(self, directory: Path) -> Head:
        """The last hidden states, pooled as the directory says and scaled to norm 1."""
        pool = pooling_of(directory)

        def embed(outputs: Any, mask: Any) -> Any:
            vectors = pool(outputs.last_hidden_state, mask)
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
        """Read images; bytes are normalised as the directory's image processor says."""
        return image_samples(path, directory, part)

    def head(self, directory: Path) -> Head:
        """The logits, one row per sample."""
        return lambda outputs, mask: outputs.logits


#: Tasks by the ending of the name of a transformers class.
_ARCHITECTURES = {
    "ForSequenceClassification": "text-classification",
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
    "ForImageClassification": "image-classification",
}


def task_of(directory: Path, spelling: str | None) -> Task:
    """The task that is named, or else the one that the directory's files imply.

    Args:
        directory: a Hugging Face directory.
        spelling: the task with its options, such as ``"causal-lm:length=256"``, or None.

    Raises:
        UsageError: the task is unknown, the files imply none, or transformers is not installed.
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
        config = read_object(directory / CONFIG)
        names = [str(name) for name in config.get("architectures") or []]
    except (OSError, CheckpointError, TypeError):
        names = []
    for ending, task in _ARCHITECTURES.items():
        if any(name.endswith(ending) for name in names):
            return TASKS.parse(task)
    known = ", ".join(TASKS.choices)
    raise UsageError(
        f"{directory}: its files do not say what the network is for: name a --task: {known}"
    )


def _check_length(length: int) -> None:
    if length < 2:
        raise ValueError(f"length must be at least 2, not {length}")
