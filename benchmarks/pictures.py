"""The pictures of README.md and docs/: a run of ``prune`` on a terminal, and its page.

    python -m benchmarks.pictures [--folder docs/pictures]

Each picture is drawn for light and for dark pages. The terminal is SVG; the page is photographed
by Chromium, which Playwright starts, and left as it is where there is none.
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, DIMMED_MONOKAI

import rmtcli
from rmtcli.report.base import Report
from rmtcli.report.renderers import Context
from rmtcli.report.renderers.html import to_html
from rmtcli.report.terminal import show

MODEL, DATA = "sample_models/mnist_deep.pt", "sample_models/mnist.npz"
COMMAND = f"rmtcli prune {MODEL} --budget 10% --data {DATA}"
OUTPUT = "sample_models/mnist_deep.pruned.pt"
#: Colours of the terminal by scheme.
THEMES = {"light": DEFAULT_TERMINAL_THEME, "dark": DIMMED_MONOKAI}
#: Columns of the terminal; width and height of the page.
COLUMNS, SIZE = 124, {"width": 1200, "height": 800}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("docs/pictures"))
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    report = run()
    for scheme in THEMES:
        (folder / f"terminal-{scheme}.svg").write_text(terminal(report, scheme), encoding="utf-8")
    photograph(report, folder)


def run() -> Report:
    """The run that the pictures show."""
    with tempfile.TemporaryDirectory() as other:
        report = rmtcli.prune(
            MODEL,
            Path(other) / "small.pt",
            budget=rmtcli.Budget("10%"),
            evaluation=rmtcli.Evaluation(data=DATA),
        )
    assert report.output is not None
    return replace(report, output=replace(report.output, path=OUTPUT))


def terminal(report: Report, scheme: str) -> str:
    """The terminal as SVG, without the fonts that rich would fetch from the network."""
    with tempfile.TemporaryFile("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(f"$ {COMMAND}", highlight=False)
        show(report, console, details=False)
        svg = console.export_svg(title="rmtcli", theme=THEMES[scheme], unique_id="rmtcli")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.S)


def photograph(report: Report, folder: Path) -> None:
    """The first screen of the page."""
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print("no Chromium: the page is not photographed")
        return
    with tempfile.TemporaryDirectory() as other, sync_playwright() as engine:
        page = Path(other) / "page.html"
        page.write_text(to_html(report, Context(COMMAND)), encoding="utf-8")
        chromium = engine.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for scheme in THEMES:
            view = chromium.new_context(viewport=SIZE, color_scheme=scheme).new_page()
            view.goto(page.as_uri())
            view.screenshot(path=folder / f"page-{scheme}.png")
        chromium.close()


if __name__ == "__main__":
    main()
