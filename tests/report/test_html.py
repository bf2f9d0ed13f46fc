"""The HTML page, and names that would do harm."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from shutil import which

import numpy as np
import pytest
from safetensors.numpy import save_file

import rmtcli as package
from rmtcli.errors import UsageError
from rmtcli.report.base import Report
from rmtcli.report.junit import to_junit
from rmtcli.report.markdown import to_markdown
from rmtcli.report.rows import summary
from tests.conftest import SAMPLES, Run, planted

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
from rmtcli.report.html import check_html, to_html

DEEP, DATA = SAMPLES / "mnist_deep.pt", SAMPLES / "mnist.npz"
HOSTILE = (
    "<script>alert(1)</script>",
    "two\nlines|and\ttabs",
    "\x1b[31mred\x1b[0m\x07",
    "\u202eright to left",
    "long" * 75,
    "\"quoted' & `ticked`",
)


class Page(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def report() -> Report:
    evaluation = package.Evaluation(DATA)
    return package.prune(DEEP, keep="edge", evaluation=evaluation, dry_run=True)


@pytest.fixture
def hostile(tmp_path: Path) -> Report:
    weight = planted((80, 60), 3, times=4).astype(np.float32)
    path = tmp_path / "<b>model & co.safetensors"
    state = {f"{name}.weight": weight * (i + 1) for i, name in enumerate(HOSTILE)}
    save_file(state, path)
    return package.analyze(path)


def test_the_page_says_what_the_report_says(report: Report) -> None:
    page = Page(to_html(report, "rmtcli prune x"))
    for text in ("97.69 %", "27 of 512", "split in two", "output head", "rmtcli prune x"):
        assert text in page.text
    for text in ("1,056,768 → 57,776", "1,061,130 → 62,138", "multiply–adds"):
        assert text in re.sub(r"\s+", " ", page.text)
    assert [tag for tag, _ in page.tags].count("svg") == len(report.layers)
    labels = [a["aria-label"] for tag, a in page.tags if tag == "div" and a.get("role") == "img"]
    assert labels[0] == (
        "27 eigenvalues above the edge; kept: 27 of 512; the bulk follows the Marchenko–Pastur law"
    )
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_it_loads_nothing_and_is_the_same_each_time(report: Report) -> None:
    text = to_html(report)
    assert text == to_html(report)
    for tag, attributes in Page(text).tags:
        for name in ("src", "href", "xlink:href", "srcset"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, name)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert len(text) < 20_000 + 30_000 * len(report.layers)


def test_figures_are_in_the_pages_colours(report: Report) -> None:
    text = to_html(report)
    assert not re.search(r"#0[1-5]0[1-5]0[1-5]", text)
    for name in ("kept", "dropped", "law", "edge"):
        assert text.count(f"var(--{name})") > len(report.layers)


def test_hostile_names_do_no_harm(hostile: Report) -> None:
    text = to_html(hostile, "rmtcli analyze '<b>'")
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 1  # the page's own
    assert not [tag for tag, _ in page.tags if tag == "b"]
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "<bdi>" in text
    markdown = to_markdown(hostile)
    assert "\x1b" not in markdown
    assert "<script>" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert len(rows) == len(HOSTILE) + 2
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {14}
    junit = to_junit(hostile, [])
    assert "\x1b" not in junit
    assert "<script>" not in junit


def test_hostile_names_on_a_terminal(hostile: Report, rmtcli: Run) -> None:
    done = rmtcli("analyze", hostile.source.path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert sum("80×60" in line for line in done.stdout.splitlines()) == len(HOSTILE)


def test_a_notebook_shows_the_table(report: Report, hostile: Report) -> None:
    text = report._repr_html_()
    assert text.count("<tr>") == len(report.layers) + 1 + len(summary(report))
    assert "<td>27 of 512</td>" in text
    assert "<script>" not in hostile._repr_html_()


def test_a_data_frame_has_a_row_a_layer(report: Report) -> None:
    pytest.importorskip("pandas")
    frame = report.to_pandas()
    assert list(frame["name"]) == [plan.layer.name for plan in report.layers]
    assert list(frame["rank"]) == [27, 10, 7, 7, 10]
    assert frame["parameters.after"].sum() == 57_776 + 2_560


def test_what_is_missing_is_said_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmtcli.report.html.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'rmtcli\[report\]'"):
        check_html()


def test_in_a_browser(workdir: Path, rmtcli: Run) -> None:
    """No request, no error, nothing wider than the screen; headings sort, keys reach them."""
    sync_api = pytest.importorskip("playwright.sync_api")
    browser_path = which("chromium") or which("google-chrome")
    if browser_path is None:
        pytest.skip("no browser")
    rmtcli("prune", DEEP, "--keep", "edge", "--dry-run", "--report", "page.html")
    with sync_api.sync_playwright() as play:
        arguments = ["--no-sandbox", "--disable-background-networking"]
        browser = play.chromium.launch(executable_path=browser_path, args=arguments)
        for width in (1400, 390):
            page = browser.new_page(viewport={"width": width, "height": 900})
            requests: list[str] = []
            problems: list[str] = []
            page.on("request", lambda request, seen=requests: seen.append(request.url))
            page.on("pageerror", lambda error, seen=problems: seen.append(str(error)))
            page.on("console", lambda message, seen=problems: seen.append(message.text))
            page.goto((workdir / "page.html").as_uri())
            assert requests == [(workdir / "page.html").as_uri()]
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            spikes = page.locator("th button", has_text="spikes")
            spikes.focus()
            page.keyboard.press("Enter")
            column = page.locator("tbody td:nth-child(5)").all_inner_texts()
            assert [int(cell) for cell in column] == sorted(map(int, column))
            assert problems == []
        browser.close()
