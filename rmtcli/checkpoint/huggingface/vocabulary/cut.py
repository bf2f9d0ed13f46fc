"""Which tokens of a directory are kept, and their new numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rmtcli.checkpoint.huggingface.config import read_object
from rmtcli.checkpoint.huggingface.read import HuggingFaceDirectory
from rmtcli.checkpoint.huggingface.vocabulary.models import KINDS, needed, tokens_of
from rmtcli.errors import UsageError
from rmtcli.options import option

#: The tokenizer's description, and the list of the tokens that were removed from it.
TOKENIZER, REMOVED = "tokenizer.json", "removed_tokens.json"
#: Configurations that may name tokens by their numbers.
CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json")
#: Entries of configurations that hold numbers of tokens, beside those that end in ``_token_id``.
_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "forced_decoder_ids")


@dataclass(frozen=True)
class Cut:
    """The tokens of a directory, and those of them that are kept.

    Attributes:
        rows: number of rows of the table, of which each kept token has one.
        tokens: all tokens of the tokenizer and their numbers.
        kept: the numbers of those that stay, in increasing order.
    """

    rows: int
    tokens: Mapping[str, int]
    kept: tuple[int, ...]

    @cached_property
    def numbers(self) -> Mapping[int, int]:
        """The new numbers by the old ones."""
        return {old: new for new, old in enumerate(self.kept)}

    @property
    def removed(self) -> dict[str, int]:
        """The tokens that go, and their old numbers."""
        return {token: old for token, old in self.tokens.items() if old not in self.numbers}


def make_cut(checkpoint: HuggingFaceDirectory, used: Collection[int]) -> Cut:
    """Choose the tokens that are kept: those of a text, and all that the tokenizer needs.

    Special and added tokens stay, and those that a configuration names by their numbers.

    Args:
        checkpoint: the directory, opened.
        used: numbers of the tokens of a text.

    Raises:
        UsageError: the tokenizer cannot be cut.
    """
    home, (rows, description) = checkpoint.home, check(checkpoint)
    model = description["model"]
    added = {entry["content"]: entry["id"] for entry in description.get("added_tokens") or ()}
    tokens = {**tokens_of(model), **added}
    if max(tokens.values(), default=0) >= rows:
        raise UsageError(
            f"{home / TOKENIZER}: has token {max(tokens.values())}, and the table of tokens has "
            f"{rows} rows only: they do not belong together"
        )
    named = {*used, *added.values(), *(n for file in CONFIGS for n in _numbers(home / file))}
    named |= set(_of_processors(description))
    names = {number: token for token, number in tokens.items()}
    inside = tokens_of(model)
    wanted = needed(model, {names[n] for n in named if names.get(n) in inside})
    kept = {tokens[token] for token in wanted} | {n for n in named if n in names}
    return Cut(rows, tokens, tuple(sorted(kept)))


def check(checkpoint: HuggingFaceDirectory) -> tuple[int, dict[str, Any]]:
    """Make sure that a directory's tokenizer can be cut.

    Returns:
        The number of rows of all tensors that have one for each token, and the content of
        ``tokenizer.json``.

    Raises:
        UsageError: there is no single such number, or other tensors may have it; the directory is
            compressed already, or its tokenizer is of an unknown kind.
    """
    description, home = _description(checkpoint), checkpoint.home
    kind = (description.get("model") or {}).get("type")
    if kind not in KINDS:
        raise UsageError(
            f"{home / TOKENIZER}: a tokenizer of the kind '{kind}', from which {option('vocab')} "
            f"cannot take tokens: it can from {', '.join(KINDS)}"
        )
    sizes = checkpoint.about.vocabularies
    if len(sizes) != 1:
        raise UsageError(
            f"{home}: its config.json has {len(sizes)} entries 'vocab_size', and "
            f"{option('vocab')} needs one"
        )
    (rows,) = sizes
    if other := next((key for key, n in _entries(checkpoint.config) if n == rows), None):
        raise UsageError(
            f"{home}: 'vocab_size' and '{other}' are both {rows}, so that {option('vocab')} "
            "cannot tell which tensors have a row for each token"
        )
    return rows, description


def _description(checkpoint: HuggingFaceDirectory) -> dict[str, Any]:
    """The content of ``tokenizer.json``, beside dense weights.

    Raises:
        UsageError: there is no such file, or the weights are compressed already.
    """
    path, home = checkpoint.path, checkpoint.home
    record = checkpoint.manifest
    if checkpoint.about.quantized or (record and (record.factored or record.packed)):
        raise UsageError(
            f"{path}: is compressed already: give {option('vocab')} with the network that it was "
            "made from"
        )
    if not (home / TOKENIZER).is_file():
        raise UsageError(
            f"{home}: has no {TOKENIZER}, so {option('vocab')} cannot cut its tokenizer: load it "
            "with transformers' AutoTokenizer and save it with save_pretrained"
        )
    return read_object(home / TOKENIZER)


def _entries(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Whole numbers in a configuration, with their keys, but those of tokens."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _entries(value)
        elif type(value) is int and key != "vocab_size" and not names_tokens(key):
            yield key, value


def names_tokens(key: str) -> bool:
    """Whether an entry of a configuration holds numbers of tokens."""
    return key.endswith("_token_id") or key in _LISTS


def _numbers(file: Path) -> Iterator[int]:
    """Numbers of tokens in a configuration."""
    waiting: list[tuple[bool, Any]] = [(False, read_object(file))] if file.is_file() else []
    while waiting:
        names, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(names_tokens(key), part) for key, part in value.items()]
        elif isinstance(value, list):
            waiting += [(names, part) for part in value]
        elif names and type(value) is int:
            yield value


def _of_processors(part: Any) -> Iterator[int]:
    """Numbers of the tokens that a tokenizer adds to texts."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key in ("sep", "cls") and isinstance(value, list):
                yield value[1]
            elif key == "pad_id":
                yield value
            elif key == "ids" and isinstance(value, list):
                yield from value
            elif key not in ("model", "added_tokens"):
                yield from _of_processors(value)
    elif isinstance(part, list):
        for value in part:
            yield from _of_processors(value)
