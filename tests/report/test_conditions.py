"""Conditions under which a run fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import rmtcli as package
from rmtcli.errors import UsageError
from rmtcli.report.conditions import FIELDS, Condition, reasons, values_of
from tests.conftest import ROOT, Run

junitparser = pytest.importorskip("junitparser")
pytest.importorskip("simpleeval")

DEEP = "sample_models/mnist_deep.pt"
DATA = ("--data", "sample_models/mnist.npz")


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("accuracy.drop > 0.5", True),
        ("accuracy.drop > 0.7", False),
        ("not accuracy.drop <= 0.7", False),
        ("params.ratio > 0.4 or accuracy.drop >= 0.6", True),
        ("params.ratio > 0.4 and accuracy.drop >= 0.6", False),
        ("-accuracy.drop < -0.5", True),
        ("0.5 < accuracy.drop < 0.65", True),
        ("params.after * 2 == params.before", False),
        ("(params.before - params.after) / params.before < 0.5", False),
    ],
)
def test_a_condition_holds_or_not(text: str, holds: bool) -> None:
    values = {"accuracy.drop": 0.6, "params.ratio": 0.1, "params.before": 10, "params.after": 1}
    assert (Condition.parse(text).holds(values) is not None) is holds


def test_a_reason_names_the_values() -> None:
    reason = Condition.parse("accuracy.drop > 0.5").holds({"accuracy.drop": 0.6123456789})
    assert reason == "accuracy.drop > 0.5 (accuracy.drop is 0.612346)"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("accuracy.drop", "compare a field with a number"),
        ("1 > 0", "compare a field with a number"),
        ("", "not a condition: write it as params.before > 0.5"),
        ("accuracy.drop >", "not a condition: write it as"),
        ("accuracy.fall > 1", "unknown field 'accuracy.fall': choose one of params.before"),
        ("layers.count.real > 1", "unknown field 'layers.count.real'"),
        ("__import__('os').system('x') > 1", r"unknown field '__import__\('os'\).system\('x'\)'"),
        ("[layers.count][0] > 1", r"unknown field '\[layers.count\]\[0\]'"),
        ("9**9**9 > layers.count", "not a condition: Operator"),
        ("layers.count > (lambda: 1)()", "unknown field"),
        ("layers.count > '1'", "not a condition: '>' not supported between"),
        ("layers.count % 2 == 0", "not a condition: Operator"),
        ("x = 1", "not a condition"),
        ("params.ratio > 1\0", "not a condition"),
    ],
)
def test_a_text_that_is_not_a_condition_is_refused(text: str, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        Condition.parse(text)


def test_a_condition_on_an_unmeasured_field_is_an_error() -> None:
    condition = Condition.parse("accuracy.drop > 0.5")
    with pytest.raises(UsageError, match=r"accuracy\.drop was not measured"):
        condition.holds({"accuracy.drop": None})


def test_fields_have_the_values_of_the_report(workdir: Path) -> None:
    report = package.prune(
        DEEP, keep="edge", evaluation=package.Evaluation("sample_models/mnist.npz"), dry_run=True
    )
    values, record = values_of(report), report.to_dict()
    assert values.keys() == FIELDS.keys()
    assert values["params.ratio"] == record["parameters"]["ratio"]
    assert values["accuracy.drop"] == record["accuracy"]["drop"]
    assert (values["layers.count"], values["layers.pruned"], values["layers.unfit"]) == (5, 4, 0)
    assert values["accuracy.cosine"] is None
    assert reasons([Condition.parse("layers.pruned == 4")], values)


def test_a_condition_that_holds_fails_the_run_and_no_checkpoint_is_written(
    workdir: Path, rmtcli: Run
) -> None:
    bad = ("prune", DEEP, *DATA, "--keep", "edge", "-o", "small.pt")
    done = rmtcli(*bad, "--fail-if", "accuracy.drop > 0.5", "--report", "junit.xml")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"rmtcli: error: {DEEP}: fails: accuracy.drop > 0.5 (")
    assert "accuracy" in done.stdout
    assert not (workdir / "small.pt").exists()
    suite = next(iter(junitparser.JUnitXml.fromfile("junit.xml")))
    assert (suite.tests, suite.failures, suite.skipped) == (6, 1, 0)

    good = rmtcli(*bad, "--fail-if", "accuracy.drop > 5", "--fail-if", "params.ratio > 0.4")
    assert good.returncode == 0, good.stderr
    assert (workdir / "small.pt").exists()


def test_github_gets_annotations_and_a_summary(
    workdir: Path, rmtcli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = workdir / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    done = rmtcli("analyze", DEEP, "--json", "--fail-if", "layers.count > 4")
    assert done.returncode == 1
    assert json.loads(done.stdout)["action"] == "analyze"
    assert "::error title=rmtcli analyze::layers.count > 4 (layers.count is 5)\n" in done.stderr
    text = summary.read_text()
    assert text.startswith("# rmtcli analyze")
    assert "**Failed:** layers.count > 4 (layers.count is 5)" in text


def test_every_field_is_documented() -> None:
    page = (ROOT / "docs/ci.md").read_text()
    for name, meaning in FIELDS.items():
        assert f"| `{name}` | {meaning} |" in page
