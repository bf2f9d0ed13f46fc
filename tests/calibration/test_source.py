from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from rmtcli.calibration import (
    Prose,
    RandomTokens,
    data_sha256,
    files_of,
    is_made,
    parts_of,
    spelled,
)
from rmtcli.errors import EvaluationError, UsageError


def test_a_file_may_be_joined_with_inputs_that_are_made() -> None:
    assert parts_of("a+b.txt") == [Path("a+b.txt")]
    assert parts_of("tokens:seed=3+a+b.txt+prose") == [
        Path("a+b.txt"),
        RandomTokens(seed=3),
        Prose(),
    ]
    assert files_of("tokens+few.txt") == (Path("few.txt"),)
    assert files_of("tokens+prose") == ()
    assert files_of("x.npy,y.npy") == (Path("x.npy"), Path("y.npy"))
    assert not is_made("few.txt")
    assert is_made("few.txt+tokens")


def test_a_spelling_has_all_options_and_is_read_again() -> None:
    text = spelled("few.txt+tokens:lines=5")
    assert text == "few.txt+tokens:lines=5,seed=0"
    assert spelled(text) == text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("tokens:lines=1", "lines must be at least 2"),
        ("tokens:seed=-1", "seed must be at least 0"),
        ("prose:length=3", "'length=3' is not an option"),
    ],
)
def test_wrong_options_are_refused(data: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parts_of(data)


def test_sentences_are_prose_and_their_order_is_that_of_the_seed() -> None:
    texts = Prose(lines=200).texts()
    assert len(texts) == len(set(texts)) == 200
    assert all(text[0].isupper() and text[-1] in ".!?" and "\n" not in text for text in texts)
    assert not any(set("`{}<>|\\=") & set(text) for text in texts)
    assert texts == Prose(lines=200).texts()
    assert texts != Prose(lines=200, seed=1).texts()
    every = Prose(lines=10**6).texts()
    assert 1000 < len(every) < 10**4
    assert set(texts) < set(every)


def test_a_python_without_its_documentation_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(EvaluationError, match="has no module 'pydoc_data': give a file"):
        Prose().texts()


def test_the_hash_depends_on_everything_that_makes_the_inputs(tmp_path: Path) -> None:
    file = tmp_path / "few.txt"
    file.write_text("one\ntwo\n")
    assert data_sha256(file) == hashlib.sha256(b"one\ntwo\n").hexdigest()
    hashes = [data_sha256(d) for d in (file, f"{file}+tokens", "tokens", "tokens:seed=1", "prose")]
    file.write_text("one\nthree\n")
    hashes.append(data_sha256(f"{file}+tokens"))
    assert len(set(hashes)) == 6
