"""The interface that every report format implements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rmtcli.report.base import Report
from rmtcli.report.conditions import Outcome
from rmtcli.report.difference import Difference
from rmtcli.report.extras import check_extra


@dataclass(frozen=True, slots=True)
class Context:
    """How a report came about, which the report itself does not know.

    Attributes:
        command: the command line, or None in a report made from Python.
        outcomes: the conditions that the user set, each with its outcome.
        made: the date, or None to leave it out.
    """

    command: str | None = None
    outcomes: tuple[Outcome, ...] = ()
    made: str | None = None


@dataclass(frozen=True, slots=True)
class Renderer:
    """A file format for reports.

    Attributes:
        name: the format as messages name it, such as ``HTML``.
        ending: the file ending that selects it, such as ``.html``.
        render: turns a report and its context into the text of the file.
        compare: turns the difference between two checkpoints into the text of the file.
        needs: packages that it imports beyond rmtcli's own requirements.
    """

    name: str
    ending: str
    render: Callable[[Report, Context], str]
    compare: Callable[[Difference, Context], str]
    needs: tuple[str, ...] = ()

    def check(self) -> None:
        """Check, before any work is done, that the packages it needs are installed.

        Raises:
            UsageError: one of them is not.
        """
        check_extra(f"{self.name} reports need", *self.needs)
