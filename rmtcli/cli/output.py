"""Files that a command writes beside its checkpoint: reports, plans and plots.

The ``check_`` functions are called before any work is done.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rmtcli.errors import UsageError

if TYPE_CHECKING:
    from rmtcli.report.base import Report


def check_report(path: Path | None, *, inputs: list[Path | None], force: bool) -> None:
    """Refuse a report that could not be written.

    Raises:
        UsageError: its ending names no format, a package is missing, or it may not be written.
    """
    if path is not None:
        from rmtcli.report.renderers import RENDERERS

        check_file(path, *RENDERERS, inputs=inputs, force=force)
        RENDERERS[path.suffix].check()


def check_file(path: Path | None, *endings: str, inputs: list[Path | None], force: bool) -> None:
    """Refuse a file that could not be written.

    Raises:
        UsageError: its ending is not one of ``endings``, or it may not be written.
    """
    if path is None:
        return
    if path.suffix not in endings:
        raise UsageError(f"{path}: its name must end in {' or '.join(endings)}")
    from rmtcli.files import check_target

    check_target(path, inputs=[item for item in inputs if item is not None], force=force)


def check_plots(folder: Path | None, *, inputs: list[Path | None], force: bool) -> None:
    """Refuse a directory that plots could not be written to.

    Raises:
        UsageError: a package is missing, or the plots may not be written there.
    """
    if folder is not None:
        from rmtcli.report.layer_plots import check_plot_folder

        given = [item for item in inputs if item is not None]
        check_plot_folder(folder, inputs=given, force=force)


def draw_layers(report: Report, folder: Path | None) -> None:
    """Write one plot per layer to a directory, if one is given."""
    if folder is not None:
        from rmtcli.report.layer_plots import write_plots

        write_plots(report, folder)
