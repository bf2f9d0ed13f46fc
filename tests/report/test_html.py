"""Reports as HTML: complete, self-contained, harmless and reproducible."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import rmtcli
from rmtcli import Evaluation
from rmtcli.report.base import Report, Tensor
from rmtcli.report.formatting import shown
from rmtcli.report.renderers import RENDERERS, Context
from rmtcli.report.renderers.html import difference_to_html, pages, to_fragment, to_html
from rmtcli.report.renderers.html.map import map_of
from rmtcli.report.summary import summary
from rmtcli.report.table import table
from tests.conftest import SAMPLES
from tests.report.hostile import NAMES, hostile_report

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
    columns, rows = table(report, full=True)
    assert {"verdict", "error"} <= set(columns)
    for text in [*columns, *(cell for row in rows for cell in row)]:
        assert text in page.text
    for label, text in summary(report):
        assert label in page.text
        assert text in page.text
    for way in ("of the pruned layers", "of the whole model", "multiply-adds"):
        assert way in page.text
    assert "bytes on disk" not in page.text  # nothing was written
    assert page.count("svg") == page.count("details") == len(report.layers)


def test_a_page_begins_with_the_result_what_to_do_and_a_map(report: Report, html: str) -> None:
    first = html[: html.index('<h2 id="table">')]
    assert "<strong>17.1× smaller</strong>" in first
    assert "<strong>not measured</strong>" in first
    assert "<bdi>rmtcli prune a.pt --data samples.npz</bdi>" in first
    assert '<a href="#layer-1" aria-label="fc1.weight: 1.61 MB → 140 kB (-91.3 %); rank' in first
    assert '<span role="img" aria-label="5 small tensors' in first
    assert '<div class="facts" id="layer-1">' in html


def test_the_map_has_the_bytes_of_all_tensors(report: Report) -> None:
    assert sum(tensor.before for tensor in report.tensors) == report.source.tensor_bytes
    assert sum(tensor.after for tensor in report.tensors) == report.tensor_bytes[1]
    mapped = map_of(report, {"fc2.weight": 7})
    assert mapped is not None
    names = [region.name for region in mapped.regions]
    assert names == [*(plan.layer.name for plan in report.layers), "5 small tensors"]
    assert [region.panel for region in mapped.regions] == [None, 7, None, None, None, None]
    assert {region.tone for region in mapped.regions} == {"fits", "other"}
    area = sum(region.width * region.height for region in mapped.regions)
    assert area == pytest.approx(100 * 100)
    fc1 = report.layers[0]
    assert mapped.regions[0].kept == pytest.approx(100 * fc1.size / fc1.layer.size)
    few = map_of(report, {}, 2)
    assert few is not None
    assert [region.name for region in few.regions][::2] == ["fc1.weight", "8 small tensors"]


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
    assert re.findall(r"#[0-9a-f]{6}|style=|fill=|stroke=", figures) == []
    style = html[html.index("<style>") : html.index("</style>")]
    inline = {"kept", "solid", "pale"}  # set by a region of the map
    for name in set(re.findall(r"var\(--([a-z-]+)\)", html)) - inline:
        assert style.count(f"--{name}:") in (1, 2)
        assert style.count(f"--{name}:") == 2, f"{name} has no dark value"


def luminance(colour: str) -> float:
    """Relative luminance of a hexadecimal colour (WCAG 2.1)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


TONES = [tone + shade for tone in ("fits", "apart", "other") for shade in ("", "-pale")]
TEXTS = [(text, ground) for text in ("text", "muted") for ground in ("page", "panel")]
TEXTS += [("text", tone) for tone in TONES]
TEXTS += [(grade, "page") for grade in ("good", "fair", "bad")]
SHAPES = [(tone, f"{tone}-pale") for tone in TONES[::2]]
SHAPES += [(line, "page") for line in ("kept", "law", "edge", "spikes")]
PAIRS = [(*pair, 4.5) for pair in TEXTS] + [(*pair, 3.0) for pair in SHAPES]


@pytest.mark.parametrize("scheme", [0, 1])
@pytest.mark.parametrize(("front", "ground", "least"), PAIRS)
def test_colours_have_contrast(
    html: str, scheme: int, front: str, ground: str, least: float
) -> None:
    """4.5 of text and 3 of shapes, as WCAG 2.1 asks for, in light and dark."""
    values = [re.findall(rf"--{name}: (#[0-9a-f]{{6}})", html)[scheme] for name in (front, ground)]
    low, high = sorted(map(luminance, values))
    assert (high + 0.05) / (low + 0.05) >= least


def many_layers(report: Report, count: int) -> Report:
    """A made-up report of as many layers, each with a bias."""
    layers, tensors = [], []
    for number in range(count):
        plan = report.layers[number % 4]
        name = f"model.layers.{number}.mlp.down_proj.weight"
        layers.append(replace(plan, layer=replace(plan.layer, name=name)))
        tensors.append(Tensor(name, 4 * plan.layer.size, 4 * plan.size))
        tensors.append(Tensor(name.replace("weight", "bias"), 2048, 2048))
    return replace(report, layers=tuple(layers), tensors=tuple(tensors))


def test_a_page_of_1000_layers_is_smaller_than_5_megabytes(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    html = to_html(many_layers(report, 250), Context())
    assert len(html.encode()) < 5_000_000 / 4  # the rest of 1,000 layers is more of the same
    assert html.count("<svg") == html.count('<a href="#layer-') / 2 == 250
    assert pages.PANELS == 1000


def test_a_notebook_gets_less_than_100_kilobytes(report: Report) -> None:
    fragment = to_fragment(many_layers(report, 500))
    assert len(fragment.encode()) < 100_000
    assert "30 of 500 rows" in fragment
    assert "<script" not in fragment
    assert ' id="' not in fragment


def test_equal_reports_give_equal_bytes(report: Report, html: str) -> None:
    assert to_html(report, Context("rmtcli prune a.pt")) == html


def test_layers_beyond_the_cap_are_in_the_table_only(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PANELS", 2)
    page = Page(to_html(report, Context()))
    assert page.count("svg") == 2
    assert f"Spectra of the 2 largest layers; {len(report.layers) - 2} more" in page.text
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
    with pytest.raises(UsageError, match=r"need junitparser: pip install junitparser"):
        check_report(tmp_path / "a.xml", inputs=[], force=False)
    check_report(tmp_path / "a.html", inputs=[], force=False)


def small_network(folder: Path) -> tuple[Path, Evaluation]:
    """A chain of linear layers of rank 4 and noise, and samples that it labels without error."""
    rng = np.random.default_rng(0)
    shapes = [(48, 24), (48, 48), (4, 48)]
    weights = [
        rng.normal(size=(out, 4)) @ rng.normal(size=(4, inputs)) / inputs
        + 1e-5 * rng.normal(size=(out, inputs))
        for out, inputs in shapes
    ]
    inputs = rng.normal(size=(200, 24)).astype(np.float32)
    hidden = inputs
    for weight in weights[:-1]:
        hidden = np.maximum(hidden @ weight.T, 0)
    targets = (hidden @ weights[-1].T).argmax(1)
    names = {f"fc{i}.weight": torch.tensor(w).float() for i, w in enumerate(weights)}
    torch.save(names, folder / "a.pt")
    np.savez(folder / "d.npz", inputs=inputs, targets=targets)
    return folder / "a.pt", Evaluation(data=folder / "d.npz")


def test_other_results_have_pages(tmp_path: Path) -> None:
    model, samples = small_network(tmp_path)
    scored = Page(to_html(rmtcli.evaluate(model, evaluation=samples), Context()))
    assert "accuracy100.00 %" in scored.text
    measured = rmtcli.curve(model, sizes=["60%", "40%"], evaluation=samples)
    curve = Page(to_html(measured, Context("rmtcli curve a.pt --size 50% --data d.npz")))
    assert curve.count("svg") == curve.count("figure") == 1
    assert "The smallest of these 2 networks that costs at most 0.5 points" in curve.text
    assert f"rmtcli prune a.pt --data d.npz --budget {measured.curve[1].parameters}" in curve.text
    assert curve.count("circle") == 3  # one is the ring of the network that is chosen
    difference = rmtcli.diff(model, model)
    for renderer in RENDERERS.values():
        assert "fc1.weight" in renderer.compare(difference, Context())
    assert "changed0 of 3layers" in Page(difference_to_html(difference, Context())).text
