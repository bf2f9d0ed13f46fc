"""Read pairs of texts for encoder-decoders: one that is read, and one that is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rmtcli.errors import EvaluationError
from rmtcli.evaluation.data import NO_TARGET, Samples
from rmtcli.evaluation.text import MASK, TOKENS, is_text, records_of, tokenised, tokenizer_of


def pair_samples(path: Path, directory: Path, length: int) -> Samples:
    """Read texts, each with the text that an encoder-decoder writes for it.

    A text without a ``target`` is its own. The samples' targets are the tokens of these texts.

    Raises:
        EvaluationError: only some of the texts have a target.
    """
    records = records_of(path)
    written = [record.get("target") for record in records]
    if any(text is not None for text in written) and not all(map(is_text, written)):
        raise EvaluationError(f"{path}: some lines have a string 'target' and some have none")
    texts = [{"text": record["text"]} for record in records]
    tokenizer = tokenizer_of(directory)
    if None in written:
        return with_copies(tokenised(tokenizer, path, length, texts, None))
    targets = _targets(tokenizer, cast("list[str]", written), length)
    # Targets travel with their texts, which are sorted by their length.
    samples = tokenised(tokenizer, path, length, texts, np.arange(len(texts)))
    assert samples.targets is not None
    return with_targets(samples, targets[samples.targets])


def _targets(tokenizer: Any, texts: Sequence[str], length: int) -> NDArray[np.int64]:
    """Texts to be written, shape (texts, longest); :data:`NO_TARGET` behind each."""
    limit = min(length, tokenizer.model_max_length)
    rows = tokenizer(text_target=list(texts), truncation=True, max_length=limit)["input_ids"]
    made = np.full((len(rows), max(map(len, rows))), NO_TARGET, np.int64)
    for i, row in enumerate(rows):
        made[i, : len(row)] = row
    return made


def with_copies(samples: Samples) -> Samples:
    """Texts for an encoder-decoder, each with itself as what is to be written."""
    inputs = samples.inputs
    return with_targets(samples, np.where(inputs[:, MASK] == 1, inputs[:, TOKENS], NO_TARGET))


def with_targets(samples: Samples, targets: NDArray[np.int64]) -> Samples:
    """Texts for an encoder-decoder, with what is to be written.

    Args:
        samples: texts; they lose segments, which no encoder-decoder reads.
        targets: token numbers, shape (samples, positions); :data:`NO_TARGET` behind each text.
    """
    known = targets != NO_TARGET
    pairs = np.stack([np.where(known, targets, 0), known.astype(np.int64)], axis=1)
    parts = samples.inputs[:, : MASK + 1], pairs
    longest = max(part.shape[2] for part in parts)
    padded = [np.pad(x, ((0, 0), (0, 0), (0, longest - x.shape[2]))) for x in parts]
    inputs = np.concatenate(padded, axis=1)
    return replace(samples, inputs=inputs, targets=targets, next_tokens=True)
