"""Writing and printing the results of commands."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rmtcli.cli.progress import finish, is_quiet
from rmtcli.errors import ConditionError, UsageError

if TYPE_CHECKING:
    from rmtcli.report.base import Report
    from rmtcli.report.conditions import Condition
    from rmtcli.report.difference import Difference
    from rmtcli.report.reproduction import Reproduction
    from rmtcli.report.verification import Verification


def check_report(path: Path | None, *, inputs: list[Path | None], force: bool) -> None:
    """Refuse a report file that could not be written, before any work is done."""
    if path is not None:
        from rmtcli.report.renderers import RENDERERS

        check_file(path, *RENDERERS, inputs=inputs, force=force)
        RENDERERS[path.suffix].check()


def check_file(path: Path | None, *endings: str, inputs: list[Path | None], force: bool) -> None:
    """Refuse a file that could not be written, before any work is done.

    Raises:
        UsageError: its ending is not one of ``endings``, or it may not be written.
    """
    if path is None:
        return
    if path.suffix not in endings:
        raise UsageError(f"{path}: its name must end in {' or '.join(endings)}")
    from rmtcli.files import check_target

    check_target(path, inputs=[item for item in inputs if item is not None], force=force)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    from rmtcli.files import write_file

    write_file(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def emit(
    report: Report,
    *,
    as_json: bool,
    report_file: Path | None,
    conditions: Sequence[Condition] = (),
) -> None:
    """Print a report, and write it to a file if one is given.

    Raises:
        ConditionError: a condition holds; the report is written all the same.
        UsageError: a condition names a value that was not measured.
    """
    from rmtcli.report.conditions import failures, outcomes, values_of

    finish()
    checked = outcomes(conditions, values_of(report)) if conditions else ()
    if report_file is not None:
        from rmtcli.report.renderers import RENDERERS, Context

        text = RENDERERS[report_file.suffix].render(report, Context(_command(), checked))
        write_text(report_file, text.rstrip("\n") + "\n")
    if as_json:
        print_json(report)
    elif not is_quiet():
        from rmtcli.report.terminal import show, stdout

        show(report, stdout())
    conclude(report, failures(checked))


def check_plots(folder: Path | None, *, inputs: list[Path | None], force: bool) -> None:
    """Refuse a directory that plots could not be written to, before any work is done."""
    if folder is not None:
        from rmtcli.report.layer_plots import check_plot_folder

        given = [item for item in inputs if item is not None]
        check_plot_folder(folder, inputs=given, force=force)


def draw_layers(report: Report, folder: Path | None) -> None:
    """Write one plot per layer, if a directory is given."""
    if folder is not None:
        from rmtcli.report.layer_plots import write_plots

        write_plots(report, folder)


def conclude(report: Report, failed: Sequence[str]) -> None:
    """Summarize a report for GitHub Actions, if this runs there, and fail if there is a reason.

    Raises:
        ConditionError: there is a reason to fail.
    """
    from rmtcli.report.github import tell_github
    from rmtcli.report.renderers import Context
    from rmtcli.report.renderers.markdown import to_markdown

    tell_github(
        f"rmtcli {report.action}",
        lambda: to_markdown(report, Context()),
        notes=report.notes,
        failed=failed,
        stream=sys.stderr,
    )
    _fail_if_any(report.source.path, failed)


def conclude_difference(difference: Difference, failed: Sequence[str]) -> None:
    """Summarize a difference for GitHub Actions, if this runs there, and fail if there is a reason.

    Raises:
        ConditionError: there is a reason to fail.
    """
    from rmtcli.report.github import tell_github
    from rmtcli.report.renderers.markdown import difference_to_markdown

    tell_github(
        "rmtcli diff",
        lambda: difference_to_markdown(difference),
        notes=(),
        failed=failed,
        stream=sys.stderr,
    )
    _fail_if_any(difference.after.path, failed)


def _fail_if_any(path: str | Path, failed: Sequence[str]) -> None:
    """Fail if there is a reason.

    Raises:
        ConditionError: there is a reason to fail.
    """
    if failed:
        raise ConditionError(f"{path}: fails: {'; '.join(failed)}")


Result = TypeVar("Result", "Verification", "Reproduction", "Difference")


def emit_result(result: Result, show: Callable[[Result], None], *, as_json: bool) -> None:
    """Print the result of a command that makes no report."""
    finish()
    if as_json:
        print_json(result)
    elif not is_quiet():
        show(result)


def print_json(report: Report | Verification | Reproduction | Difference) -> None:
    """Print a result as JSON, in ASCII with escapes unless stdout is encoded in UTF-8."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(report.to_json(_command(), ascii_only=not unicode))


def _command() -> str:
    return shlex.join(["rmtcli", *sys.argv[1:]])
