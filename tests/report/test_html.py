"""Reports as HTML: complete, self-contained, harmless and reproducible."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

import rmtcli
from rmtcli.report.base import Report
from rmtcli.report.formatting import shown
from rmtcli.report.renderers import Context
from rmtcli.report.renderers.html import opening, to_html
from rmtcli.report.renderers.html.opening import parts
from rmtcli.report.summary import summary
from rmtcli.report.table import table
from tests.conftest import SAMPLES, Run
from tests.report.hostile import NAMES, hostile_report

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

VOID = {"meta", "link", "br", "img", "input", "wbr"}


class Page(HTMLParser):
    """Tags, ids, headings and text of a page; tags that are not closed in order are an error."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture(scope="module")
def report() -> Report:
    return rmtcli.prune(SAMPLES / "mnist_deep.pt", dry_run=True)


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return to_html(report, Context("rmtcli prune a.pt"))


def test_a_page_contains_the_summary_and_the_table(report: Report, html: str) -> None:
    page = Page(html)
    columns, rows = table(report)
    for text in [*columns, *(cell for row in rows for cell in row)]:
        assert text in page.text
    for label, text in summary(report):
        assert label in page.text
        assert text in page.text
    for way in ("of the pruned layers", "of the whole model", "multiply-adds"):
        assert way in page.text
    assert "bytes on disk" not in page.text  # nothing was written
    assert page.count("svg") == page.count("desc") == len(report.layers)


def test_a_page_begins_with_the_result_and_a_map_of_the_parameters(
    report: Report, html: str
) -> None:
    first = html[: html.index("<h2>Totals")]
    assert "<strong>17.1× smaller</strong>" in first
    assert "<strong>not measured</strong>" in first
    mapped = parts(report, len(report.layers))
    assert sum(part.before for part in mapped) == report.source.parameters
    assert sum(part.after for part in mapped) == report.parameters[1]
    assert first.count("<li style=") == len(report.layers) + 1
    assert '<a href="#layer-1" aria-label="fc1.weight: 401,408 → ' in first
    assert '<section class="panel" id="layer-1">' in html
    analysis = to_html(replace(report, action="analyze"), Context())
    assert '<ul class="map">' not in analysis  # an analysis removes nothing


def test_small_layers_are_one_part_of_the_map(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "MAPPED", 2)
    mapped = parts(report, 1)
    names = [part.name for part in mapped]
    assert names == ["fc1.weight", "fc2.weight", "3 smaller layers", "all other tensors"]
    assert [part.number for part in mapped] == [1, None, None, None]
    assert sum(part.before for part in mapped) == report.source.parameters


def test_a_written_file_has_its_bytes_in_the_totals(report: Report) -> None:
    written = replace(report.source, path="b.pt", bytes=1_000)
    text = Page(to_html(replace(report, output=written), Context())).text
    assert re.search(rf"bytes on disk\s*{report.source.bytes:,}1,000", text)


def test_a_page_refers_to_no_other_resource(html: str) -> None:
    assert re.findall(r"https?://[^\"' ]+", re.sub(r'xmlns(:xlink)?="[^"]+"', "", html)) == []
    assert "@import" not in html
    references = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert {r for r in references if not r.startswith("#")} == {"data:,"}
    assert "default-src 'none'" in html


def test_ids_are_unique_and_references_resolve(html: str) -> None:
    ids = [a["id"] for _, a in Page(html).tags if "id" in a]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', html))
    assert {a or b for a, b in used} <= set(ids)


def test_headings_are_in_order(html: str) -> None:
    levels = [int(tag[1]) for tag, _ in Page(html).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_figures_take_their_colours_from_the_page(html: str) -> None:
    figures = "".join(re.findall(r"<svg.*?</svg>", html, re.S))
    assert re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", figures) == []
    style = html[html.index("<style>") : html.index("</style>")]
    for name in set(re.findall(r"var\(--([a-z]+)\)", html)):
        assert style.count(f"--{name}:") in (1, 2)
        assert style.count(f"--{name}:") == 2, f"{name} has no dark value"


def luminance(colour: str) -> float:
    """Relative luminance of a hexadecimal colour (WCAG 2.1)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
@pytest.mark.parametrize("text", ["text", "muted"])
@pytest.mark.parametrize("ground", ["page", "panel"])
def test_text_has_contrast(html: str, scheme: int, text: str, ground: str) -> None:
    values = [re.findall(rf"--{name}: (#[0-9a-f]{{6}})", html)[scheme] for name in (text, ground)]
    low, high = sorted(map(luminance, values))
    assert (high + 0.05) / (low + 0.05) >= 4.5


def test_a_layer_takes_less_than_30_kilobytes(report: Report, html: str) -> None:
    assert len(html.encode()) < 20_000 + 30_000 * len(report.layers)


def test_equal_reports_give_equal_bytes(report: Report, html: str) -> None:
    assert to_html(report, Context("rmtcli prune a.pt")) == html


def test_layers_beyond_the_cap_are_in_the_table_only(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmtcli.report.renderers.html.page.MAX_FIGURES", 2)
    page = Page(to_html(report, Context()))
    assert page.count("svg") == 2
    assert f"Figures of the first 2 layers; {len(report.layers) - 2} more" in page.text
    assert all(plan.layer.name in page.text for plan in report.layers)


@pytest.mark.parametrize("kind", NAMES)
def test_hostile_names_do_no_harm_in_a_page(kind: str, tmp_path: Path) -> None:
    report = hostile_report(NAMES[kind], tmp_path)
    html = to_html(report, Context(f"rmtcli analyze {NAMES[kind]}"))
    page = Page(html)
    assert page.count("script") == 1
    assert page.count("img") == 0
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert shown(NAMES[kind]) in page.text
    assert all(c.isprintable() or c == "\n" for c in html)
    assert page.count("bdi") > len(report.layers)


def test_a_missing_package_is_reported_before_any_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from rmtcli.cli.output import check_report
    from rmtcli.errors import UsageError

    monkeypatch.setattr("rmtcli.report.extras.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"need jinja2: pip install 'rmtcli\[report\]'"):
        check_report(tmp_path / "a.html", inputs=[], force=False)
    check_report(tmp_path / "a.md", inputs=[], force=False)


def test_evaluate_and_curve_write_pages(workdir: Path, rmtcli: Run) -> None:
    model, data = "sample_models/mnist_mlp.safetensors", "sample_models/mnist.npz"
    done = rmtcli("evaluate", model, "--data", data, "--report", "e.html")
    assert done.returncode == 0, done.stderr
    assert "accuracy" in Page(Path("e.html").read_text()).text
    done = rmtcli("curve", model, "--data", data, "--size", "50%", "--size", "20%",
                  "--report", "c.html")  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = Page(Path("c.html").read_text())
    assert page.count("svg") == 1
    assert "parameters left, %" in page.text
