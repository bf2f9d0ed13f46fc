"""The page in Chromium; skipped without Playwright or a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rmtcli
from rmtcli.report.base import Report
from rmtcli.report.renderers import Context
from rmtcli.report.renderers.html import to_html
from tests.conftest import SAMPLES
from tests.report.hostile import NAMES, hostile_report
from tests.report.test_html import many_layers

playwright = pytest.importorskip("playwright.sync_api")

NAMES_OF_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES_OF_BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=BROWSER, args=QUIET)
        yield chromium
        chromium.close()


def opened(browser: Any, file: Path, width: int, **options: Any) -> tuple[Any, list[str]]:
    """The page, and what it asked for or complained about beyond itself."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    page, trouble = context.new_page(), []
    page.on("request", lambda request: trouble.append(request.url))
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
    page.goto(file.as_uri())
    trouble.remove(file.as_uri())
    return page, trouble


@pytest.fixture(scope="module")
def report() -> Report:
    return rmtcli.prune(SAMPLES / "mnist_deep.pt", dry_run=True)


@pytest.fixture(scope="module")
def file(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "a.html"
    path.write_text(to_html(report, Context()))
    return path


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_the_width_and_loads_nothing_else(
    browser: Any, file: Path, width: int, scheme: str
) -> None:
    page, trouble = opened(browser, file, width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert trouble == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is (scheme == "light")
    text = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
    assert text == page.evaluate("getComputedStyle(document.body).color")


def test_columns_are_sorted_by_keyboard(browser: Any, file: Path) -> None:
    page, _ = opened(browser, file, 1400)
    column = "[...document.querySelectorAll('.layers tbody tr')].map(r => r.cells[5].innerText)"
    button = page.get_by_role("button", name="spikes")
    button.focus()
    page.keyboard.press("Enter")
    ascending = [int(text) for text in page.evaluate(column)]
    assert ascending == sorted(ascending)
    page.keyboard.press("Enter")
    assert [int(text) for text in page.evaluate(column)] == ascending[::-1]


def test_the_table_is_filtered_and_the_map_tells_numbers(
    browser: Any, report: Report, tmp_path: Path
) -> None:
    many = tmp_path / "many.html"
    many.write_text(to_html(many_layers(report, 30), Context()))
    page, trouble = opened(browser, many, 390)
    page.get_by_role("searchbox", name="Filter").fill("layers.2 split")
    assert page.locator(".layers tbody tr:visible").count() == 11
    assert page.get_by_role("status").inner_text() == "11 of 30 rows"
    region = page.locator(".map").get_by_role("link").first
    region.focus()
    bar = region.evaluate("e => getComputedStyle(e, '::after').content")
    assert "model.layers.0.mlp.down_proj.weight: 1.61 MB → 140 kB" in bar
    assert trouble == []


def test_a_page_is_printed_without_its_panels(browser: Any, file: Path) -> None:
    page, _ = opened(browser, file, 794)
    page.emulate_media(media="print")
    assert page.get_by_role("heading", name="Layers").is_visible()
    assert not page.get_by_role("heading", name="Spectra").is_visible()
    pages = page.pdf(format="A4").count(b"/Type /Page\n")
    assert 1 <= pages <= 3


def test_without_scripts_the_tables_are_there(browser: Any, file: Path) -> None:
    page, _ = opened(browser, file, 390, java_script_enabled=False)
    assert page.get_by_role("button").count() == 0
    assert page.get_by_role("columnheader", name="spikes").is_visible()
    assert page.locator("details[open]").count() == 0
    page.locator(".map").get_by_role("link").nth(1).press("Enter")  # it opens the layer's panel
    assert page.locator("details[open] summary").inner_text().startswith("fc2.weight")
    assert page.locator("details[open]").get_by_role("img").is_visible()


@pytest.mark.parametrize("kind", NAMES)
def test_hostile_names_run_no_code_and_fit_the_page(
    browser: Any, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "a.html"
    path.write_text(to_html(hostile_report(NAMES[kind], tmp_path), Context()))
    page, trouble = opened(browser, path, 390)
    assert trouble == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
