"""Reports in notebooks, as data frames, and as JUnit with hostile names."""

from __future__ import annotations

from pathlib import Path

import pytest

import rmtcli
from rmtcli.report.base import Report
from rmtcli.report.renderers import Context
from rmtcli.report.renderers.junit import to_junit
from rmtcli.report.summary import summary
from tests.conftest import SAMPLES
from tests.report.hostile import NAMES, hostile_report


@pytest.fixture(scope="module")
def report() -> Report:
    return rmtcli.prune(SAMPLES / "mnist_deep.pt", keep="edge", dry_run=True)


def test_a_notebook_shows_the_result_the_map_and_the_table(report: Report) -> None:
    text = report._repr_html_()
    assert "<strong>17.1× smaller</strong>" in text
    assert text.count("<tr>") == len(report.layers) + 1
    assert text.count("<dt>") == len(summary(report)) + 1
    assert '<td class="number">27 of 512</td>' in text
    assert '<ul class="map">' in text
    assert "href=" not in text  # panels are on the page only


def test_a_data_frame_has_one_row_per_layer(report: Report) -> None:
    pytest.importorskip("pandas")
    frame = report.to_pandas()
    assert list(frame["name"]) == [plan.layer.name for plan in report.layers]
    assert list(frame["rank"]) == [27, 10, 7, 7, 10]
    assert frame["parameters.after"].sum() == 57_776 + 2_560


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_hostile_names_do_no_harm_in_notebooks_and_junit(tmp_path: Path, name: str) -> None:
    junitparser = pytest.importorskip("junitparser")
    found = hostile_report(name, tmp_path)
    shown, text = found._repr_html_(), to_junit(found, Context())
    for sign in ("\x1b", "\u202e", "<script>", "<img"):
        assert sign not in shown
    for sign in ("\x1b", "<script>", "<img"):
        assert sign not in text
    assert sum(suite.tests for suite in junitparser.JUnitXml.fromstring(text.encode())) == 2


def test_a_report_prints_what_the_command_does_and_shows_itself_in_one_line(report: Report) -> None:
    assert str(report).splitlines()[0].startswith("layer ")
    assert "17.1× smaller" in str(report)
    assert repr(report).startswith("<Report of prune: ")
    assert repr(report).endswith("cost not measured>")
    assert "\n" not in repr(report)


def test_a_report_saves_itself_in_the_format_of_the_ending(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path / "report.json")
    assert (tmp_path / "report.json").read_text() == report.to_json() + "\n"
    report.save(tmp_path / "report.md")
    assert "- **result:** 17.1× smaller" in (tmp_path / "report.md").read_text()
    with pytest.raises(ValueError, match=r"report\.doc: its name must end in \.md or"):
        report.save(tmp_path / "report.doc")


def test_a_report_plots_a_layer_or_says_which_it_has(report: Report) -> None:
    pytest.importorskip("matplotlib")
    assert report.plot().axes
    with pytest.raises(rmtcli.RmtcliError, match=r"no layer 'x': it has fc1\.weight, fc2"):
        report.plot("x")
