"""Which tokens a tokenizer's model needs beside those of a text, and the model without the rest.

A text is divided as before if only tokens go that it does not use:

- WordPiece takes the longest token that fits at each place, which is still there.
- Byte-pair encoding applies the merge of lowest rank, again and again. The merges that a text uses
  make tokens that are parts of those at the end, so all of them stay, and the others only become
  fewer.
- A unigram model takes the division of largest score, which is still there. Its score of what is
  in no token depends on the least score, so the token that has it stays.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

#: A byte for which the tokenizer has a token: ``<0x0A>``.
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
#: The mark of a space at the beginning of a word.
_SPACE = "▁"
#: The kinds of models that can be cut.
KINDS = ("WordPiece", "BPE", "Unigram", "WordLevel")


def tokens_of(model: Mapping[str, Any]) -> dict[str, int]:
    """The tokens of a model and their numbers."""
    if model["type"] == "Unigram":
        return {str(token): number for number, (token, _) in enumerate(model["vocab"])}
    return dict(model["vocab"])


def needed(model: Mapping[str, Any], used: Collection[str]) -> set[str]:
    """The used tokens, all that these need, and all that any text may need.

    The latter are the token for what is unknown, single characters, and bytes.

    Args:
        model: the entry ``model`` of a ``tokenizer.json``.
        used: tokens of the model.
    """
    tokens = tokens_of(model)
    kept = {*used, *(token for token in tokens if _is_single(model, token))}
    kept |= {token for token in _unknown(model, tokens) if token in tokens}
    if model["type"] == "Unigram" and model["vocab"]:
        kept.add(min(model["vocab"], key=lambda entry: entry[1])[0])
    if model["type"] == "BPE":
        made: dict[str, list[str]] = defaultdict(list)
        for first, second in _merges(model):
            made[_merged(model, first, second)] += [first, second]
        waiting = list(kept)
        while waiting:
            new = [part for part in made.get(waiting.pop(), ()) if part not in kept]
            kept.update(new)
            waiting += new
    return kept


def without(model: Mapping[str, Any], numbers: Mapping[str, int]) -> dict[str, Any]:
    """A model with the kept tokens only.

    Args:
        model: the entry ``model`` of a ``tokenizer.json``.
        numbers: the new number of each kept token.
    """
    new = dict(model)
    if model["type"] == "Unigram":
        new["vocab"] = [entry for entry in model["vocab"] if entry[0] in numbers]
        if model.get("unk_id") is not None:
            new["unk_id"] = numbers[model["vocab"][model["unk_id"]][0]]
        return new
    new["vocab"] = {token: numbers[token] for token in model["vocab"] if token in numbers}
    if model["type"] == "BPE":
        pairs = zip(model["merges"], _merges(model), strict=True)
        new["merges"] = [
            merge
            for merge, (first, second) in pairs
            if {first, second, _merged(model, first, second)} <= new["vocab"].keys()
        ]
    return new


def _unknown(model: Mapping[str, Any], tokens: Mapping[str, int]) -> Iterator[str]:
    """The token for what is unknown."""
    if isinstance(model.get("unk_token"), str):
        yield model["unk_token"]
    if model.get("unk_id") is not None:
        yield list(tokens)[model["unk_id"]]


def _is_single(model: Mapping[str, Any], token: str) -> bool:
    """Whether a token is a single character or byte, apart from marks of its place in a word."""
    bare = token.removeprefix(model.get("continuing_subword_prefix") or "")
    bare = bare.removesuffix(model.get("end_of_word_suffix") or "")
    bare = bare.removeprefix(_SPACE) or bare
    return len(bare) <= 1 or _BYTE.fullmatch(token) is not None


def _merges(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for merge in model["merges"]:
        first, second = merge.split(" ", 1) if isinstance(merge, str) else merge
        yield first, second


def _merged(model: Mapping[str, Any], first: str, second: str) -> str:
    return first + second.removeprefix(model.get("continuing_subword_prefix") or "")
