"""How a command begins and ends: what it refuses before any work, and how it shows a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rmtcli.cli.output import (
    check_file,
    check_plots,
    check_report,
    conclude_difference,
    draw_layers,
    emit,
    emit_result,
)
from rmtcli.cli.progress import listen

if TYPE_CHECKING:
    from rmtcli.cli.options import OutputOptions
    from rmtcli.cli.output import Result
    from rmtcli.report.base import Report
    from rmtcli.report.conditions import Condition
    from rmtcli.report.difference import Difference


@dataclass(frozen=True, slots=True)
class Reporter:
    """Shows the result of a command as its options say.

    Attributes:
        options: the command's.
        conditions: those of ``--fail-if``, parsed.
    """

    options: OutputOptions
    conditions: tuple[Condition, ...]

    @staticmethod
    def open(
        options: OutputOptions,
        inputs: Sequence[Path | None],
        files: Sequence[tuple[Path | None, Sequence[str]]],
        fields: Mapping[str, str] | None,
    ) -> Reporter:
        """Begin a command; :meth:`rmtcli.cli.options.OutputOptions.open` describes the arguments.

        Raises:
            UsageError: a condition or a path that cannot be used.
        """
        listen(quiet=options.quiet, verbose=options.verbose)
        conditions = _parse(options.fail_if or (), fields)
        written = [options.report, *(path for path, _ in files), options.plot]

        def others(index: int) -> list[Path | None]:
            return [*inputs, *written[:index], *written[index + 1 :]]

        check_report(options.report, inputs=others(0), force=options.force)
        for i, (path, endings) in enumerate(files, start=1):
            check_file(path, *endings, inputs=others(i), force=options.force)
        check_plots(options.plot, inputs=others(len(files) + 1), force=options.force)
        return Reporter(options, conditions)

    def refuse(self, report: Report) -> list[str]:
        """The conditions that hold, each with the values that make it so."""
        from rmtcli.report.conditions import reasons, values_of

        return reasons(self.conditions, values_of(report))

    def show(self, report: Report) -> None:
        """Draw, write and print a report, and tell GitHub about it.

        Raises:
            ConditionError: a condition holds; the report is written all the same.
            UsageError: a condition names a value that was not measured.
        """
        draw_layers(report, self.options.plot)
        emit(
            report,
            as_json=self.options.json,
            report_file=self.options.report,
            conditions=self.conditions,
        )

    def show_difference(self, difference: Difference) -> None:
        """Print how two checkpoints differ, and tell GitHub about it.

        Raises:
            ConditionError: a condition holds.
            UsageError: a condition names a value that was not measured.
        """
        from rmtcli.report.conditions import reasons
        from rmtcli.report.terminal import show_difference, stdout

        self.show_result(difference, lambda it: show_difference(it, stdout()))
        conclude_difference(difference, reasons(self.conditions, difference.values))

    def show_result(self, result: Result, show: Callable[[Result], None]) -> None:
        """Print a result that is not a report: as JSON, or by ``show``."""
        emit_result(result, show, as_json=self.options.json)


def _parse(texts: Sequence[str], fields: Mapping[str, str] | None) -> tuple[Condition, ...]:
    if not texts:
        return ()
    from rmtcli.report.conditions import Condition

    return tuple(Condition.parse(text, fields) for text in texts)
