"""One figure per layer as files for a paper, with the numbers as CSV."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable
from pathlib import Path

from rmtcli.errors import UsageError
from rmtcli.files import check_target, write_file
from rmtcli.options import option
from rmtcli.report.base import Report
from rmtcli.report.draw_esd import esd_figure
from rmtcli.report.esd import Esd, esd_of
from rmtcli.report.plot import check_plots, save_figure

#: File endings of each figure: for web pages, LaTeX and slides.
ENDINGS = (".svg", ".pdf", ".png")
#: Largest number of characters of a layer's name in a file name.
LONGEST = 80


def check_plot_folder(folder: Path, *, inputs: list[Path], force: bool) -> None:
    """Refuse a directory that figures cannot be written to, before any work is done.

    Raises:
        UsageError: matplotlib is not installed; the directory is an input or inside one, is a
            file, cannot be created, or is not empty and ``force`` is not given.
    """
    check_plots()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file: give a directory for the figures")
    # A file that does not exist yet must pass the checks of any new output.
    check_target(folder / "layers.csv" if folder.is_dir() else folder, inputs=inputs, force=force)
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise UsageError(f"{folder}: is not empty: give {option('force')} to write into it")
    if folder.is_dir() and not os.access(folder, os.W_OK):
        raise UsageError(f"{folder}: no permission to write to it")


def write_plots(report: Report, folder: Path) -> None:
    """Write a figure and its numbers for each layer, and ``layers.csv``, the list of them.

    Args:
        report: a report with layers.
        folder: created if it does not exist; the caller has checked that it can be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index: list[Iterable[object]] = [("file", "layer", "n", "p", "sigma", "edge", "spikes", "rank")]
    for number, plan in enumerate(report.layers, 1):
        stem, esd, fit = file_stem(number, plan.layer.name), esd_of(plan), plan.fit
        figure = esd_figure(esd, legend=True)
        for ending in ENDINGS:
            save_figure(figure, folder / (stem + ending))
        _write_csv(folder / f"{stem}.csv", _bars(esd))
        s = plan.spectrum
        index.append(
            (stem, plan.layer.name, s.n, s.p, fit.law.sigma, fit.edge, plan.spikes, plan.rank)
        )
    _write_csv(folder / "layers.csv", index)


def file_stem(number: int, name: str) -> str:
    """A file name for a layer: its number, which is unique, and the harmless part of its name."""
    return f"{number:03d}-{re.sub('[^A-Za-z0-9._-]+', '_', name)[:LONGEST]}"


def _bars(esd: Esd) -> list[Iterable[object]]:
    """One row per bar; each row repeats the edge, so that it can be plotted by itself."""
    low, high = esd.interval or ("", "")
    rows: list[Iterable[object]] = [
        ("low", "high", "dropped", "kept", "law", "edge", "edge_low", "edge_high")
    ]
    for i, (dropped, kept) in enumerate(zip(esd.dropped, esd.kept, strict=True)):
        law = "" if esd.law is None else float(esd.law[i])
        ends = float(esd.bins[i]), float(esd.bins[i + 1])
        rows.append((*ends, int(dropped), int(kept), law, esd.edge, low, high))
    return rows


def _write_csv(path: Path, rows: Iterable[Iterable[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_file(path, lambda file: file.write(text.getvalue().encode("utf-8", "replace")))
