"""Named choices: their spelling, options, references and entry points."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from rmtcli.edges import EDGES
from rmtcli.edges.bema import Bema
from rmtcli.errors import UsageError
from rmtcli.keep import KEEP_RULES
from rmtcli.noise import NOISES
from rmtcli.registry import Registry
from rmtcli.training import SCHEDULES
from tests.conftest import ROOT


def test_options_are_the_fields_of_the_dataclass() -> None:
    assert EDGES.parse("bema") == Bema()
    assert EDGES.parse("bema:alpha=0.25, beta=0.01") == Bema(alpha=0.25, beta=0.01)
    assert EDGES.spell(Bema()) == "bema:alpha=0.2,beta=0.1,max_distance=0.1,refits=0"


def test_names_in_use_stay() -> None:
    """Plans, reports and scripts hold them; more may be added, in alphabetical order."""
    assert {"auto", "edge", "energy", "fraction", "hard-threshold", "rank", "relative"} <= set(
        KEEP_RULES.choices
    )
    assert {
        *("bema", "bema-gamma", "dyson", "kritchman-nadler", "median", "mp-pca", "screenot"),
        *("select", "sign-flip"),
    } <= set(EDGES.choices)
    for choices in (KEEP_RULES.choices, EDGES.choices):
        assert list(choices) == sorted(choices)


@pytest.mark.parametrize("registry", [EDGES, KEEP_RULES], ids=["edges", "keep"])
def test_every_choice_of_a_package_is_listed_under_the_name_of_its_module(
    registry: Registry[Any],
) -> None:
    folder = ROOT / registry.group.replace(".", "/")
    registering = {file.stem for file in folder.glob("*.py") if ".register(" in file.read_text()}
    assert {name.replace("-", "_") for name in registry.choices} == registering


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "foo",
            f"unknown keep rule 'foo': choose one of {', '.join(KEEP_RULES.choices)}",
        ),
        ("energy", "keep rule 'energy': give an option: write energy:fraction=…"),
        ("energy:0.9", "keep rule 'energy:0.9': '0.9' is not an option: write energy:fraction=0.9"),
        ("energy=0.9", "unknown keep rule 'energy=0.9': write energy:fraction=0.9"),
        ("rank=many", "unknown keep rule 'rank=many': write rank:k=…"),
        (
            "80%",
            "unknown keep rule '80%': write energy:fraction=80% or fraction:of=80% or "
            "relative:threshold=80%",
        ),
        (
            "enrgy:fraction=0.9",
            "unknown keep rule 'enrgy:fraction=0.9': did you mean 'energy'? choose one of "
            + ", ".join(KEEP_RULES.choices),
        ),
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
            f"unknown keep rule '': choose one of {', '.join(KEEP_RULES.choices)}",
        ),
    ],
)
def test_a_wrong_spelling_is_answered_with_the_right_one(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        KEEP_RULES.parse(text)
    assert str(caught.value) == message


def test_a_share_may_be_written_in_percent() -> None:
    assert KEEP_RULES.parse("energy:fraction=80%") == KEEP_RULES.parse("energy:fraction=0.8")
    with pytest.raises(UsageError, match="k must be a whole number, not '80%'"):
        KEEP_RULES.parse("rank:k=80%")


def test_entry_points_add_choices_and_replace_none(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_built_in_choices_are_known_without_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_read(group: str) -> None:
        raise AssertionError(group)

    @dataclass(frozen=True)
    class Own:
        width: int = 3

    monkeypatch.setattr("rmtcli.registry.entry_points", none_read)
    registry: Registry[object] = Registry("thing", "rmtcli.things")
    registry.register("own")(Own)
    assert registry.spell(registry.parse("own:width=5")) == "own:width=5"


def test_a_choice_whose_docstring_names_a_year_carries_the_reference() -> None:
    cited = 0
    registries: tuple[Registry[Any], ...] = (EDGES, KEEP_RULES, NOISES, SCHEDULES)
    for registry in registries:
        for name, choice in registry.choices.items():
            first_line = (sys.modules[choice.__module__].__doc__ or "").splitlines()[0]
            reference = registry.reference(name)
            years = set(re.findall(r"\b(?:19|20)\d\d\b", first_line))
            assert years <= set(re.findall(r"\d{4}", reference or "")), name
            cited += reference is not None
    assert cited >= 13


def test_the_theory_page_cites_edge_estimators_as_the_registry_does() -> None:
    page = (ROOT / "docs/theory.md").read_text()
    table = page[page.index("| name | source | assumes |") :].partition("\n\n")[0]
    cited = dict(re.findall(r"^\| `([\w-]+)` \| ([^|]*) \|", table, re.M))
    assert len(cited) >= 9
    assert cited == {name: EDGES.reference(name) or "this page" for name in cited}


def test_a_choice_without_a_reference_has_none() -> None:
    @dataclass(frozen=True)
    class Plain:
        pass

    @dataclass(frozen=True)
    class OptionOfThatName:
        reference: int = 3

    registry: Registry[object] = Registry("thing", "rmtcli.things")
    registry.register("plain")(Plain)
    registry.register("option")(OptionOfThatName)
    assert registry.reference("plain") is None
    assert registry.reference("option") is None
