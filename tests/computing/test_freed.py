"""Freed memory is given back to the system."""

from __future__ import annotations

import sys

import pytest

from rmtcli.computing import freed


def test_the_c_library_is_asked_where_it_keeps_freed_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(freed, "_trim", lambda: asked.append)
    freed.give_back()
    assert asked == [0]


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_elsewhere_nothing_is_asked(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert freed._trim.__wrapped__() is None
