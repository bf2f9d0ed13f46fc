"""Options in groups: what Typer sees of them, and that they agree with the library's values."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, fields
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

import rmtcli
from rmtcli.cli import options
from rmtcli.cli.groups import Only, expand_groups, given
from rmtcli.running.finetune import Training

GROUPS = {
    options.SelectionOptions: rmtcli.Selection,
    options.EvaluationOptions: rmtcli.Evaluation,
    options.CalibrationOptions: rmtcli.Calibration,
    options.TrainingOptions: Training,
}


@dataclass(frozen=True, slots=True)
class Paint:
    colour: Annotated[str, typer.Option("--colour", "-c", help="Its name.")]
    coats: Annotated[int, typer.Option(min=1)] = 2
    areas: Annotated[list[str] | None, typer.Option("--on")] = None


def run(command: Any, *arguments: str) -> str:
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(expand_groups(command))
    return CliRunner().invoke(app, list(arguments)).output


def painted(*, wall: str, paint: Paint, dry: bool = False) -> None:
    """Paint a wall."""
    typer.echo(f"{wall} {paint} {dry}")


def test_a_command_receives_a_group_as_one_value() -> None:
    assert run(painted, "north", "-c", "red", "--on", "top", "--on", "edge", "--dry") == (
        "north Paint(colour='red', coats=2, areas=['top', 'edge']) True\n"
    )


def test_help_lists_the_options_of_a_group_in_their_place() -> None:
    text = run(painted, "--help")
    names = ["wall", "--colour", "--coats", "--on", "--dry"]
    assert sorted(names, key=text.rindex) == names
    assert "Its name.  [required]" in text
    assert "[default: 2; x>=1]" in text


def test_an_option_without_a_default_must_be_given() -> None:
    assert "Missing option '--colour'" in run(painted, "north")


def test_a_command_may_offer_a_part_of_a_group() -> None:
    def primed(*, paint: Annotated[Paint, Only("colour", "areas")]) -> None:
        typer.echo(paint)

    assert "No such option" in run(primed, "-c", "red", "--coats", "1")
    assert run(primed, "-c", "red") == "Paint(colour='red', coats=2, areas=None)\n"


def test_a_part_of_a_group_names_fields_that_exist() -> None:
    def primed(*, paint: Annotated[Paint, Only("color")]) -> None: ...

    with pytest.raises(KeyError, match="color"):
        expand_groups(primed)


def test_options_that_are_not_given_leave_the_librarys_defaults() -> None:
    assert given(Paint("red")) == {"colour": "red", "coats": 2}


@pytest.mark.parametrize(("group", "value"), GROUPS.items(), ids=lambda kind: kind.__name__)
def test_a_group_has_the_fields_and_defaults_of_the_value_that_it_builds(
    group: type, value: type
) -> None:
    def default(field: Field[Any]) -> Any:
        # A repeatable option that is not given is None; the library has an empty sequence.
        return None if field.default in (MISSING, ()) else field.default

    offered, expected = ({f.name: default(f) for f in fields(kind)} for kind in (group, value))
    assert offered == expected
    assert group().build() == value()
