"""How often the tokens of a tokenizer come in text, judged from the tokenizer alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray

#: Tokens that stand for something else than text: ``[unused1]``, ``<extra_id_0>``, ``<0x0A>``.
_CONTROL = re.compile(r"\[\w+\]|<[^<>\s]+>")
#: Frequencies fall as 1/(rank + OFFSET).
OFFSET = 10.0


def frequencies(tokenizer: Any) -> tuple[NDArray[np.int64], FloatArray]:
    """The ordinary tokens of a transformers tokenizer, and how often each comes in text.

    The scores of a unigram model are logarithms of probabilities. The merges of byte-pair encoding
    are sorted by how often the pair came in its text. Other vocabularies are sorted by frequency,
    more or less. Special, unused and control tokens are left out.

    Args:
        tokenizer: a tokenizer of transformers, with a model of the tokenizers package or without.

    Returns:
        Token numbers in increasing order, and shares that sum to 1, both of shape (tokens,); empty
        where there are no ordinary tokens.
    """
    special = set(tokenizer.all_special_ids)
    numbers = {
        token: number
        for token, number in tokenizer.get_vocab().items()
        if number not in special and not _CONTROL.fullmatch(token)
    }
    weights = _weights(tokenizer, numbers)
    ids = np.array(sorted(weights), np.int64)
    values = np.array([weights[number] for number in ids.tolist()], np.float64)
    return ids, values / values.sum()


def by_rank(ranks: NDArray[np.int64]) -> FloatArray:
    """Shares of tokens in a vocabulary that is sorted by frequency: ∝ 1/(rank + 10)."""
    share = 1 / (ranks + OFFSET)
    return np.asarray(share / share.sum())


def _weights(tokenizer: Any, numbers: Mapping[str, int]) -> dict[int, float]:
    """A positive weight of each ordinary token that may be drawn, by its number."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = {} if backend is None else json.loads(backend.to_str())["model"]
    if model.get("type") == "Unigram":
        scores = dict(map(tuple, model["vocab"]))
        return {n: float(np.exp(scores[t])) for t, n in numbers.items() if t in scores}
    if model.get("type") == "BPE" and model["merges"]:
        counts = _merged(model["merges"])
        merged = {n: counts[t] for t, n in numbers.items() if counts.get(t, 0) > 0}
        if merged:
            return merged
    return {number: 1 / (number + OFFSET) for number in numbers.values()}


def _merged(merges: Sequence[Any]) -> dict[str, float]:
    """How often each merged token is left in the text once all merges are done.

    A merge's rank gives how often its token was made. Later merges use the token up.

    Args:
        merges: pairs of tokens, or texts in which a space divides them, in order.
    """
    pairs = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in merges]
    made = {first + second: 1 / (rank + OFFSET) for rank, (first, second) in enumerate(pairs)}
    left = dict(made)
    for first, second in pairs:
        for part in (first, second):
            if part in left:
                left[part] -= made[first + second]
    return left
