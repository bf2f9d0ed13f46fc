"""The beginning and the end of a command: what it refuses, and how it shows its result."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rmtcli.cli.defaults import TAKEN
from rmtcli.cli.output import check_file, check_plots, check_report, draw_layers
from rmtcli.cli.progress import finish, is_quiet, listen
from rmtcli.errors import ConditionError

if TYPE_CHECKING:
    from rmtcli.cli.options.output import OutputOptions
    from rmtcli.report.base import Report
    from rmtcli.report.conditions import Condition, Outcome
    from rmtcli.report.difference import Difference
    from rmtcli.report.reproduction import Reproduction
    from rmtcli.report.resized import Resized
    from rmtcli.report.verification import Verification

Result = TypeVar("Result", "Report", "Difference", "Verification", "Reproduction", "Resized")


@dataclass(frozen=True, slots=True)
class Reporter:
    """Shows the result of a command as the command's options say.

    Attributes:
        options: the options.
        conditions: the conditions of ``--fail-if``.
    """

    options: OutputOptions
    conditions: tuple[Condition, ...]

    @staticmethod
    def open(
        options: OutputOptions,
        *inputs: Path | None,
        files: Sequence[tuple[Path | None, Sequence[str]]] = (),
        fields: Mapping[str, str] | None = None,
    ) -> Reporter:
        """Begin a command: set how much it prints, and refuse files that it could not write.

        Args:
            options: what the user asked for; options that a command does not offer ask for nothing.
            inputs: paths that the command reads, and the checkpoint that it writes; None where an
                option was not given. No other file may be one of them.
            files: further files that the command writes, each with the endings allowed for it.
            fields: what ``--fail-if`` may name, with meanings; the fields of a report by default.

        Raises:
            UsageError: an option that contradicts another, a condition that cannot be evaluated, or
                a file that cannot be written.
        """
        listen(quiet=options.quiet, verbose=options.verbose)
        conditions = _parse(options.fail_if or (), fields)
        written = [options.report, *(path for path, _ in files), options.plot]

        def others(index: int) -> list[Path | None]:
            return [*inputs, *written[:index], *written[index + 1 :]]

        check_report(options.report, inputs=others(0), force=options.force)
        for index, (path, endings) in enumerate(files, start=1):
            check_file(path, *endings, inputs=others(index), force=options.force)
        check_plots(options.plot, inputs=others(len(files) + 1), force=options.force)
        return Reporter(options, conditions)

    def refuse(self, report: Report) -> list[str]:
        """The conditions that hold, each with the values for which it does."""
        from rmtcli.report.conditions import reasons, values_of

        return reasons(self.conditions, values_of(report))

    def show(self, report: Report) -> None:
        """Plot, write and print a report.

        Raises:
            ConditionError: a condition holds; the report is written all the same.
            UsageError: a condition names a value that was not measured.
        """
        if TAKEN.get():
            report = replace(report, notes=(*report.notes, f"defaults: {TAKEN.get()}"))
        draw_layers(report, self.options.plot)
        finish()
        checked: tuple[Outcome, ...] = ()
        if self.conditions:
            from rmtcli.report.conditions import outcomes, values_of

            checked = outcomes(self.conditions, values_of(report))
        self._write(report, checked)
        self.show_result(report, lambda result: _print_report(result, self.options.verbose))
        _conclude(
            f"rmtcli {report.action}",
            report.source.path,
            lambda: _markdown(report),
            checked,
            report.notes,
        )

    def show_difference(self, difference: Difference) -> None:
        """Print how two checkpoints differ.

        Raises:
            ConditionError: a condition holds.
            UsageError: a condition names a value that was not measured.
        """
        from rmtcli.report.conditions import outcomes

        finish()
        checked = outcomes(self.conditions, difference.values)
        self._write(difference, checked)
        self.show_result(difference, _print_difference)
        _conclude(
            "rmtcli diff",
            difference.after.path,
            lambda: _difference_markdown(difference),
            checked,
        )

    def show_resized(self, resized: Resized) -> None:
        """Print the ranks of an adapter before and after."""
        self.show_result(resized, _print_resized)

    def _write(self, result: Report | Difference, checked: tuple[Outcome, ...]) -> None:
        """Write the file that the user asked for, if there is one."""
        if self.options.report is not None:
            from rmtcli.report.renderers import Context, today, write_report

            write_report(result, self.options.report, Context(_command_line(), checked, today()))

    def show_result(self, result: Result, show: Callable[[Result], None]) -> None:
        """Print a result as JSON, or with ``show``."""
        finish()
        if self.options.json:
            _print_json(result)
        elif not is_quiet():
            show(result)


def _parse(texts: Sequence[str], fields: Mapping[str, str] | None) -> tuple[Condition, ...]:
    if not texts:
        return ()
    from rmtcli.report.conditions import Condition

    return tuple(Condition.parse(text, fields) for text in texts)


def _markdown(report: Report) -> str:
    from rmtcli.report.renderers.base import Context
    from rmtcli.report.renderers.markdown import to_markdown

    return to_markdown(report, Context())


def _difference_markdown(difference: Difference) -> str:
    from rmtcli.report.renderers.base import Context
    from rmtcli.report.renderers.markdown import difference_to_markdown

    return difference_to_markdown(difference, Context())


def _print_report(report: Report, details: bool) -> None:
    from rmtcli.report.terminal import show, stdout

    show(report, stdout(), details=details)


def _print_difference(difference: Difference) -> None:
    from rmtcli.report.terminal import show_difference, stdout

    show_difference(difference, stdout())


def _print_resized(resized: Resized) -> None:
    from rmtcli.report.terminal import show_resized, stdout

    show_resized(resized, stdout())


def _conclude(
    title: str,
    path: str | Path,
    markdown: Callable[[], str],
    checked: Sequence[Outcome],
    notes: Sequence[str] = (),
) -> None:
    """Summarize a result for GitHub Actions, if this runs there, and fail if there is a reason.

    Raises:
        ConditionError: there is a reason to fail.
    """
    from rmtcli.report.github import tell_github

    failed: list[str] = []
    if checked:
        from rmtcli.report.conditions import failures

        failed = failures(checked)
    tell_github(title, markdown, notes=notes, failed=failed, stream=sys.stderr)
    if failed:
        raise ConditionError(f"{path}: fails: {'; '.join(failed)}")


def _print_json(
    result: Report | Difference | Verification | Reproduction | Resized,
) -> None:
    """Print a result as JSON, in ASCII with escapes unless stdout is encoded in UTF-8."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(result.to_json(_command_line(), ascii_only=not unicode))


def _command_line() -> str:
    return shlex.join(["rmtcli", *sys.argv[1:]])
