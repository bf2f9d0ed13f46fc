"""The pictures of README.md and docs/: small, for light and dark, and without requests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PICTURES = sorted((ROOT / "docs/pictures").iterdir())


def test_every_picture_is_there_in_light_and_dark() -> None:
    names = {path.name for path in PICTURES}
    kinds = ("page-{}.png", "terminal-{}.svg")
    assert names == {kind.format(scheme) for kind in kinds for scheme in ("light", "dark")}


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_picture_is_small_and_complete(path: Path) -> None:
    data = path.read_bytes()
    assert 5_000 < len(data) < 200_000
    assert not re.search(rb"@font-face|url\(.?http", data)
