"""The files of a tokenizer without the tokens that go, and configurations with new numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmtcli.checkpoint.huggingface.config import read_object
from rmtcli.checkpoint.huggingface.vocabulary.cut import (
    CONFIGS,
    REMOVED,
    TOKENIZER,
    Cut,
    names_tokens,
)
from rmtcli.checkpoint.huggingface.vocabulary.models import without

#: Files of other forms of the same tokenizer, which are removed: they would not fit.
_OTHERS = ("*.model", "unigram.json", "*.bpe.vocab")


def rewrite_files(home: Path, cut: Cut) -> None:
    """Rewrite a directory's tokenizer and configurations in place.

    Args:
        home: the folder with ``tokenizer.json``; it is a copy.
        cut: the tokens that are kept.
    """
    description = read_object(home / TOKENIZER)
    tokens = {token: cut.numbers[old] for token, old in cut.tokens.items() if old in cut.numbers}
    model = without(description["model"], tokens)
    for entry in description.get("added_tokens") or ():
        entry["id"] = cut.numbers[entry["id"]]
    rest = {key: _processed(value, cut) for key, value in description.items() if key != "model"}
    _write(home / TOKENIZER, {**rest, "model": model})
    for name in CONFIGS:
        if (home / name).is_file():
            _write(home / name, _renumbered(read_object(home / name), cut))
    for name in ("vocab.json", "added_tokens.json"):
        if (home / name).is_file():
            old = read_object(home / name)
            _write(home / name, {token: tokens[token] for token in old if token in tokens})
    _rewrite_lists(home, cut, model)
    for pattern in _OTHERS:
        for file in home.glob(pattern):
            file.unlink()
    _write(home / REMOVED, {"kept": len(cut.kept), "removed": cut.removed})


def _rewrite_lists(home: Path, cut: Cut, model: Mapping[str, Any]) -> None:
    """Rewrite the files that have a token or a merge per line."""
    if (file := home / "vocab.txt").is_file():
        lines = file.read_text(encoding="utf-8").split("\n")
        kept = [lines[old] for old in cut.kept if old < len(lines)]
        file.write_text("\n".join(kept).rstrip("\n") + "\n", encoding="utf-8")
    if (file := home / "merges.txt").is_file():
        merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges", ())]
        text = file.read_text(encoding="utf-8")
        head = [text.partition("\n")[0]] if text.startswith("#version") else []
        file.write_text("\n".join([*head, *merges]) + "\n", encoding="utf-8")


def _processed(part: Any, cut: Cut) -> Any:
    """A part of ``tokenizer.json`` with the new numbers of the tokens that it adds to texts."""
    if isinstance(part, list):
        return [_processed(value, cut) for value in part]
    if not isinstance(part, dict):
        return part
    new: dict[str, Any] = {}
    for key, value in part.items():
        if key in ("sep", "cls") and isinstance(value, list):
            new[key] = [value[0], cut.numbers[value[1]]]
        elif key == "pad_id":
            new[key] = cut.numbers.get(value, value)
        elif key == "ids" and isinstance(value, list):
            new[key] = [cut.numbers[number] for number in value]
        else:
            new[key] = _processed(value, cut)
    return new


def _renumbered(config: Mapping[str, Any], cut: Cut) -> dict[str, Any]:
    """A configuration with the new numbers of tokens and the new size of the vocabulary."""
    new: dict[str, Any] = {}
    for key, value in config.items():
        if key == "vocab_size" and value == cut.rows:
            new[key] = len(cut.kept)
        elif key == "added_tokens_decoder":
            new[key] = {str(cut.numbers[int(old)]): entry for old, entry in value.items()}
        elif names_tokens(key):
            new[key] = _mapped(value, cut)
        else:
            new[key] = _renumbered(value, cut) if isinstance(value, dict) else value
    return new


def _mapped(value: Any, cut: Cut) -> Any:
    """New numbers of tokens, alone or in lists; a number that is none's stays, such as −1."""
    if isinstance(value, list):
        return [_mapped(part, cut) for part in value]
    return cut.numbers.get(value, value) if type(value) is int else value


def _write(file: Path, values: Mapping[str, Any]) -> None:
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    # JSON can spell a lone surrogate, which no encoding has: it stays an escape.
    file.write_text(text, encoding="utf-8", errors="backslashreplace")
