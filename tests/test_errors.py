"""Messages of errors become one line."""

from __future__ import annotations

import pytest

from rmtcli.errors import first_line, one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("the first\nand more"), "the first"),
        (ValueError("\n\nafter empty ones"), "after empty ones"),
        (AssertionError(), "AssertionError"),
        (RuntimeError("\n"), "RuntimeError"),
        (KeyError("name"), "'name'"),
    ],
)
def test_the_first_line_of_any_error_that_a_library_raises(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_unprintable_characters_are_escaped() -> None:
    assert one_line("a\nb\x1b[31mc\u2028d é") == "a\\nb\\x1b[31mc\\u2028d é"
