"""How commands show progress and hand over a report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rmtcli.errors import UsageError

if TYPE_CHECKING:
    from rmtcli.report.base import Report
    from rmtcli.report.reproduction import Reproduction
    from rmtcli.report.verification import Verification

T = TypeVar("T")

#: Endings that ``--report`` understands.
_REPORTS = (".md", ".json", ".html")


def check_report(path: Path | None, *, inputs: list[Path | None], force: bool) -> None:
    """Refuse a report file that could not be written, before any work is done."""
    check_file(path, *_REPORTS, inputs=inputs, force=force)
    if path is not None and path.suffix == ".html":
        from rmtcli.report.html import check_html

        check_html()


def check_file(path: Path | None, *endings: str, inputs: list[Path | None], force: bool) -> None:
    """Refuse a file that could not be written, before any work is done."""
    if path is None:
        return
    if path.suffix not in endings:
        raise UsageError(f"{path}: its name must end in {' or '.join(endings)}")
    from rmtcli.checkpoint import check_target

    check_target(path, inputs=[item for item in inputs if item is not None], force=force)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    from rmtcli.checkpoint import write_file

    write_file(path, lambda file: file.write(text.encode()))


def progress(items: Sequence[T]) -> Iterable[T]:
    """Pass items on; on a terminal, with a bar on stderr that leaves nothing behind."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(
        items,
        description="layers",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def emit(report: Report, *, as_json: bool, report_file: Path | None) -> None:
    """Print a report, and write it to a file where one is asked for."""
    if report_file is not None:
        text = _rendered(report, report_file.suffix, _command())
        write_text(report_file, text.rstrip("\n") + "\n")
    if as_json:
        print_json(report)
    else:
        from rmtcli.report.terminal import show, stdout

        show(report, stdout())


def check_plots(folder: Path | None, *, inputs: list[Path | None], force: bool) -> None:
    """Refuse a folder that figures could not be written to, before any work is done."""
    if folder is not None:
        from rmtcli.report.layer_plots import check_plot_folder

        given = [item for item in inputs if item is not None]
        check_plot_folder(folder, inputs=given, force=force)


def draw_layers(report: Report, folder: Path | None) -> None:
    """Write a figure a layer, where they are asked for."""
    if folder is not None:
        from rmtcli.report.layer_plots import write_plots

        write_plots(report, folder)


def _rendered(report: Report, ending: str, command: str) -> str:
    if ending == ".html":
        from rmtcli.report.html import to_html

        return to_html(report, command)
    from rmtcli.report.markdown import to_markdown

    render = to_markdown if ending == ".md" else type(report).to_json
    return render(report, command)


def print_json(report: Report | Verification | Reproduction) -> None:
    """Print a report as JSON; a stream of another encoding gets every name whole, as an escape."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(report.to_json(_command(), ascii_only=not unicode))


def _command() -> str:
    return shlex.join(["rmtcli", *sys.argv[1:]])
