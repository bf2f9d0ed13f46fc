"""Read the samples of transformers' networks, preprocessed as their directory says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmtcli.checkpoint.huggingface import refuse_code
from rmtcli.errors import EvaluationError, MissingFileError, UsageError, first_line
from rmtcli.evaluation.data import NO_TARGET, TEXTS, Samples, read_samples
from rmtcli.evaluation.problem import object_of, targets_of

#: Rows of a sample of text: token numbers, attention mask and, only where the tokenizer gives them,
#: segment numbers.
TOKENS, MASK, SEGMENTS = range(3)
#: Further rows of a sample for an encoder-decoder: the target's token numbers and their mask.
TARGET, TARGET_MASK = 2, 3
#: Largest number of tokens of a sentence.
LONGEST = 256


def embedding_samples(path: Path, directory: Path, length: int) -> Samples:
    """Read the texts of a file, without targets."""
    records = records_of(path)
    return _samples(path, directory, length, records, None)


def labelled_samples(path: Path, directory: Path, length: int) -> Samples:
    """Read texts or pairs of texts, with their labels as targets if they have any.

    Raises:
        EvaluationError: a label is unknown, or only some records have one.
    """
    records = records_of(path)
    targets = targets_of(path, [record.get("label") for record in records], directory)
    return _samples(path, directory, length, records, targets)


def language_samples(path: Path, directory: Path, length: int) -> Samples:
    """Read a text in blocks of ``length`` tokens; the targets are each block's next tokens.

    Raises:
        EvaluationError: the text is shorter than one block.
    """
    if path.suffix.lower() == ".jsonl":
        text = "\n".join(record["text"] for record in records_of(path))
    else:
        text = _text(path)
    tokens = tokenizer_of(directory)(text, verbose=False)["input_ids"]
    count = len(tokens) // length
    if not count:
        raise EvaluationError(
            f"{path}: {len(tokens)} tokens are less than a block of {length}: "
            "give more text, or a smaller causal-lm:length"
        )
    blocks = np.array(tokens[: count * length], np.int64).reshape(count, length)
    inputs = np.stack([blocks, np.ones_like(blocks)], axis=1)
    return Samples(path, inputs, blocks[:, 1:], scaled=False, next_tokens=True)


def samples_of(tokenizer: Any, path: Path, texts: Sequence[str], length: int = LONGEST) -> Samples:
    """Texts as a network reads them, cut at ``length`` tokens; no targets."""
    return tokenised(tokenizer, path, length, [{"text": text} for text in texts], None)


def line_samples(path: Path, directory: Path, length: int) -> Samples:
    """Read texts of at most ``length`` tokens each; the targets are each text's next tokens.

    A text of one token has no next token, and is left out.

    Raises:
        EvaluationError: no text has two tokens.
    """
    return next_token_samples(_samples(path, directory, length, records_of(path), None))


def next_token_samples(samples: Samples) -> Samples:
    """Texts with their next tokens as targets; a text of one token is left out.

    Raises:
        EvaluationError: no text has two tokens.
    """
    inputs = samples.inputs[:, : MASK + 1]  # a language model reads no segments
    inputs = inputs[inputs[:, MASK].sum(1) > 1]
    if not len(inputs):
        raise EvaluationError(f"{samples.path}: no text has a second token to predict")
    targets = np.where(inputs[:, MASK] == 1, inputs[:, TOKENS], NO_TARGET)[:, 1:]
    return replace(samples, inputs=inputs, targets=targets, next_tokens=True)


def image_samples(path: Path, directory: Path, part: str) -> Samples:
    """Read images; bytes are scaled to [0, 1] and normalised as the image processor says.

    Raises:
        EvaluationError: the arrays do not have the shape of images.
    """
    samples = read_samples(path, part)
    if samples.inputs.ndim != 4:
        raise EvaluationError(
            f"{path}: images must have shape (samples, channels, height, width), "
            f"not {samples.inputs.shape}"
        )
    file = directory / "preprocessor_config.json"
    if not (samples.scaled and file.is_file()):
        return samples
    settings = object_of(file)
    if not settings.get("do_normalize", True):
        return samples
    mean, deviation = (
        _per_channel(file, key, settings.get(key, 0.5), samples.inputs.shape[1])
        for key in ("image_mean", "image_std")
    )
    return replace(samples, inputs=(samples.inputs - mean) / deviation)


def _per_channel(file: Path, key: str, value: Any, channels: int) -> NDArray[np.float32]:
    """A number of the image processor's for all channels or for each, shape (1, channels, 1, 1).

    Raises:
        EvaluationError: it is not one, or a deviation that is not positive.
    """
    values = value if isinstance(value, list) else [value]
    low = -1e30 if key == "image_mean" else 1e-30
    numbers = all(type(number) in (int, float) and low < number < 1e30 for number in values)
    if numbers and len(values) in (1, channels):
        return np.array(list(map(float, values)), np.float32).reshape(1, -1, 1, 1)
    raise EvaluationError(
        f"{file}: '{key}' must be a number, or one for each of {channels} channels"
    )


def _samples(
    path: Path,
    directory: Path,
    length: int,
    records: Sequence[dict[str, Any]],
    targets: NDArray[Any] | None,
) -> Samples:
    """Tokenise records with the tokenizer of a directory."""
    return tokenised(tokenizer_of(directory), path, length, records, targets)


def tokenised(
    tokenizer: Any,
    path: Path,
    length: int,
    records: Sequence[dict[str, Any]],
    targets: NDArray[Any] | None,
) -> Samples:
    """Tokenise records; the inputs have shape (samples, 2 or 3, longest), shortest samples first.

    Batches of similar lengths need little padding.

    Args:
        tokenizer: a tokenizer of transformers.
        path: where the texts are from.
        length: the largest number of tokens per text; longer texts are cut.
        records: objects with a ``text`` and perhaps a ``text_pair``.
        targets: one per record, or None.

    Raises:
        EvaluationError: only some of the texts are pairs.
    """
    texts = [record["text"] for record in records]
    pairs = [record.get("text_pair") for record in records]
    if any(pairs) and not all(pairs):
        raise EvaluationError(f"{path}: some lines have a 'text_pair' and some have none")
    limit = min(length, tokenizer.model_max_length)
    encoded = tokenizer(texts, pairs if any(pairs) else None, truncation=True, max_length=limit)
    rows = encoded["input_ids"]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    longest = len(rows[order[-1]])
    segments = encoded.get("token_type_ids")
    inputs = np.zeros((len(rows), 2 if segments is None else 3, longest), np.int64)
    for index, i in enumerate(order):
        size = len(rows[i])
        fields = [rows[i], np.ones(size), *([] if segments is None else [segments[i]])]
        inputs[index, :, :size] = fields
    return Samples(path, inputs, None if targets is None else targets[order], scaled=False)


def tokenizer_of(directory: Path) -> Any:
    """Load a directory's tokenizer.

    Raises:
        CheckpointError: the directory names code.
        EvaluationError: it has no tokenizer, or it cannot be read.
    """
    import transformers

    refuse_code(directory)
    try:
        with quiet(transformers):
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
        # Without its files, transformers creates a tokenizer without a vocabulary.
        files = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
        if not any((directory / name).is_file() for name in files if name):
            raise FileNotFoundError(f"it has none of {', '.join(sorted(filter(None, files)))}")
    # transformers raises many types of errors for a directory without a tokenizer.
    except Exception as error:
        reason = first_line(error)
        if reason.rstrip().endswith(":"):  # a list of what to install or to look for follows
            reason = "transformers can make none from its files"
        raise EvaluationError(f"{directory}: its tokenizer cannot be read: {reason}") from None
    return tokenizer


def records_of(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a ``.txt`` file as texts, or the objects of a ``.jsonl`` file.

    Raises:
        EvaluationError: there is no text, or a line is not an object with a text.
    """
    lines = [line for line in _text(path).splitlines() if line.strip()]
    if not lines:
        raise EvaluationError(f"{path}: holds no text")
    if path.suffix.lower() != ".jsonl":
        return [{"text": line.strip()} for line in lines]
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise EvaluationError(f"{path}: line {number} is not JSON") from None
        if not isinstance(record, dict) or not is_text(record.get("text")):
            raise EvaluationError(f"{path}: line {number} is not an object with a string 'text'")
        if not is_text(record.get("text_pair") or ""):
            raise EvaluationError(f"{path}: line {number} has a 'text_pair' that is not a string")
        records.append(record)
    return records


def texts_of(path: Path) -> list[str]:
    """All texts in a file of text, those of pairs one by one.

    Raises:
        UsageError: there is no such file, or its ending is unknown.
        EvaluationError: there is no text, or a line is not an object with a text.
    """
    keys = ("text", "text_pair")
    return [record[key] for record in records_of(path) for key in keys if record.get(key)]


def is_text(value: object) -> bool:
    """Whether a value is a string without lone surrogates."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _text(path: Path) -> str:
    """Read a text file in UTF-8.

    Raises:
        UsageError: there is no such file, or its ending is unknown.
        EvaluationError: it is not text in UTF-8.
    """
    if path.suffix.lower() not in TEXTS:
        raise UsageError(f"{path}: text must be in a .txt or a .jsonl file{_of_table(path)}")
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise EvaluationError(f"{path}: is not text in UTF-8") from None


def _of_table(path: Path) -> str:
    """How to convert a table with a column of texts; empty for other files."""
    if path.suffix.lower() != ".csv":
        return ""
    code = "import csv, json; [print(json.dumps(r)) for r in csv.DictReader(open('{}'))]"
    return (
        ", with a 'text' and perhaps a 'label' on each line: "
        f'python -c "{code.format(path)}" > {path.stem}.jsonl'
    )


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Silence transformers' progress bars and log messages below errors in a ``with`` block."""
    logs = transformers.utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()
