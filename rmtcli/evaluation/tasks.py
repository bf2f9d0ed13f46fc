"""Tasks: what a network is used for, which says how it is fed and what its outputs are.

This module imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from rmtcli.evaluation.data import Samples, read_samples
from rmtcli.evaluation.pairs import pair_samples, with_copies
from rmtcli.evaluation.pooling import embedding_head, pooling_of
from rmtcli.evaluation.reading import Rows
from rmtcli.evaluation.text import (
    embedding_samples,
    image_samples,
    labelled_samples,
    language_samples,
    line_samples,
    next_token_samples,
)
from rmtcli.registry import Registry

#: A function from the output of a transformers model, and the mask of its inputs, to rows.
Head = Callable[[Any, Any], Any]


class Task(Protocol):
    """How a network is fed, and what its outputs are.

    Attributes:
        rows: what a row of outputs is; None if it is inferred.
        auto: name of the transformers Auto class; empty for a network of the user's own.
        batch: samples per forward pass.
    """

    rows: ClassVar[Rows | None]
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
    """A network of the user's own, of arrays; targets or outputs say what its rows are."""

    rows: ClassVar[Rows | None] = None
    auto: ClassVar[str] = ""
    batch: ClassVar[int] = 1024

    def read(self, path: Path, directory: Path, part: str = "") -> Samples:
        """Read the arrays ``inputs`` and ``targets``."""
        return read_samples(path, part)

    def head(self, directory: Path) -> Head:
        """The identity: the network's outputs are rows already."""
        return lambda outputs, mask: outputs


TASKS: Registry[Task] = Registry("task", "rmtcli.tasks")


@TASKS.register(Rows.CLASSES.value)
@dataclass(frozen=True, slots=True)
class Classification(Arrays):
    """Your own network: one class per sample; accuracy, agreement, divergence and margin."""

    rows: ClassVar[Rows | None] = Rows.CLASSES


@TASKS.register(Rows.LABELS.value)
@dataclass(frozen=True, slots=True)
class MultiLabelClassification(Arrays):
    """Your own network: any number of labels per sample, each decided at probability 0.5."""

    rows: ClassVar[Rows | None] = Rows.LABELS


@TASKS.register(Rows.VECTORS.value)
@dataclass(frozen=True, slots=True)
class Embedding(Arrays):
    """Your own network: vectors whose direction counts; their cosine with the dense network's."""

    rows: ClassVar[Rows | None] = Rows.VECTORS


@TASKS.register(Rows.VALUES.value)
@dataclass(frozen=True, slots=True)
class Regression(Arrays):
    """Your own network: numbers; R², mean squared error, and how far the outputs move."""

    rows: ClassVar[Rows | None] = Rows.VALUES


@TASKS.register("text-classification")
@dataclass(frozen=True, slots=True)
class TextClassification:
    """Classes, labels or a score of texts, from JSON lines with 'text' ('text_pair') and 'label'.

    Attributes:
        length: largest number of tokens per text; longer texts are truncated.
    """

    length: int = 256
    rows: ClassVar[Rows | None] = Rows.CLASSES
    auto: ClassVar[str] = "AutoModelForSequenceClassification"
    batch: ClassVar[int] = 32

    def __post_init__(self) -> None:
        _check_length(self.length)

    def read(self, path: Path, directory: Path, part: str = "") -> Samples:
        """Read texts, and labels: class numbers or names, lists of 0 and 1, or numbers."""
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
    rows: ClassVar[Rows | None] = Rows.CLASSES
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


@TASKS.register("seq2seq-lm")
@dataclass(frozen=True, slots=True)
class Seq2SeqLM:
    """Texts that an encoder-decoder writes, from JSON lines with 'text' and 'target'; perplexity.

    A text without a target, such as a line of a text file, is its own target.

    Attributes:
        length: largest number of tokens per text; longer texts are truncated.
    """

    length: int = 256
    rows: ClassVar[Rows | None] = Rows.CLASSES
    auto: ClassVar[str] = "AutoModelForSeq2SeqLM"
    batch: ClassVar[int] = 4

    def __post_init__(self) -> None:
        _check_length(self.length)

    def read(self, path: Path, directory: Path, part: str = "") -> Samples:
        """Read the texts for the encoder, and those that the decoder is to write."""
        return pair_samples(path, directory, self.length)

    def head(self, directory: Path) -> Head:
        """The logits, one row per token of the targets."""
        return lambda outputs, mask: outputs.logits[mask]


@TASKS.register("sentence-embedding")
@dataclass(frozen=True, slots=True)
class SentenceEmbedding:
    """Embeddings of the lines of a text file; their cosine with the dense network's.

    Attributes:
        length: largest number of tokens per text; longer texts are truncated.
    """

    length: int = 256
    rows: ClassVar[Rows | None] = Rows.VECTORS
    auto: ClassVar[str] = "AutoModel"
    batch: ClassVar[int] = 32

    def __post_init__(self) -> None:
        _check_length(self.length)

    def read(self, path: Path, directory: Path, part: str = "") -> Samples:
        """Read one text per line, or the 'text' of each JSON line."""
        return embedding_samples(path, directory, self.length)

    def head(self, directory: Path) -> Head:
        """The last hidden states, pooled as the directory says and scaled to norm 1."""
        return embedding_head(pooling_of(directory))


@TASKS.register("image-classification")
@dataclass(frozen=True, slots=True)
class ImageClassification:
    """Classes of images, from arrays of shape (samples, channels, height, width)."""

    rows: ClassVar[Rows | None] = Rows.CLASSES
    auto: ClassVar[str] = "AutoModelForImageClassification"
    batch: ClassVar[int] = 32

    def read(self, path: Path, directory: Path, part: str = "") -> Samples:
        """Read images; bytes are normalised as the directory's image processor says."""
        return image_samples(path, directory, part)

    def head(self, directory: Path) -> Head:
        """The logits, one row per sample."""
        return lambda outputs, mask: outputs.logits


def of_texts(samples: Samples, task: Task) -> Samples:
    """Tokenised texts as a task takes them: language models also need the tokens to predict."""
    if isinstance(task, CausalLM):
        return next_token_samples(samples)
    return with_copies(samples) if isinstance(task, Seq2SeqLM) else samples


def _check_length(length: int) -> None:
    if length < 2:
        raise ValueError(f"length must be at least 2, not {length}")
