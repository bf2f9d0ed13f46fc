from __future__ import annotations

from dataclasses import dataclass

import pytest

from rmtcli.edges import EDGES
from rmtcli.edges.bema import Bema
from rmtcli.errors import UsageError
from rmtcli.keep import KEEP_RULES
from rmtcli.registry import Registry


def test_options_are_the_fields_of_the_dataclass() -> None:
    assert EDGES.parse("bema") == Bema()
    assert EDGES.parse("bema:alpha=0.25, beta=0.01") == Bema(alpha=0.25, beta=0.01)
    assert EDGES.spell(Bema()) == "bema:alpha=0.2,beta=0.1,max_distance=0.1,refits=0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "foo",
            "unknown keep rule 'foo': choose one of "
            "auto, edge, energy, fraction, hard-threshold, rank, relative",
        ),
        ("energy", "keep rule 'energy': give an option: write energy:fraction=…"),
        ("energy:0.9", "keep rule 'energy:0.9': '0.9' is not an option: write energy:fraction=…"),
        ("rank:k=2.5", "keep rule 'rank:k=2.5': k must be a whole number, not '2.5'"),
        ("rank:k=0", "keep rule 'rank:k=0': k must be at least 1, not 0"),
        ("energy:fraction=x", "keep rule 'energy:fraction=x': fraction must be a number, not 'x'"),
        (
            "energy:fraction=nan",
            "keep rule 'energy:fraction=nan': fraction must be from 0 to 1, not nan",
        ),
        ("auto:x=1", "keep rule 'auto:x=1': 'x=1' is not an option of 'auto', which has none"),
        (
            "edge:x=1",
            "keep rule 'edge:x=1': 'x=1' is not an option: write edge:below=… or edge:at_least=…",
        ),
        (
            "",
            "unknown keep rule '': choose one of "
            "auto, edge, energy, fraction, hard-threshold, rank, relative",
        ),
    ],
)
def test_wrong_spellings_say_what_is_right(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        KEEP_RULES.parse(text)
    assert str(caught.value) == message


def test_entry_points_add_choices_but_do_not_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Mine:
        width: int = 3

    class Point:
        def __init__(self, name: str) -> None:
            self.name = name

        def load(self) -> type:
            return Mine

    @dataclass(frozen=True)
    class Own:
        pass

    monkeypatch.setattr("rmtcli.registry.entry_points", lambda group: [Point("mine"), Point("own")])
    registry: Registry[object] = Registry("thing", "rmtcli.things")
    registry.register("own")(Own)
    assert registry.parse("mine:width=5") == Mine(5)
    assert registry.parse("own") == Own()
