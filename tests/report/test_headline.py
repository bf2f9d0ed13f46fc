"""The result in one line, and what comes next."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rmtcli
from rmtcli.edges import Verdict
from rmtcli.evaluation import Comparison, Reading, Rows
from rmtcli.evaluation.scores import Scores
from rmtcli.report.base import Report
from rmtcli.report.headline import Grade, headline, next_steps
from tests.conftest import SAMPLES


@pytest.fixture(scope="module")
def report() -> Report:
    return rmtcli.prune(SAMPLES / "mnist_mlp.safetensors", dry_run=True)


def compared(before: Scores, after: Scores, rows: Rows = Rows.CLASSES) -> Comparison:
    return Comparison("a network", None, before, after, reading=Reading(rows))


def scores(accuracy: float | None = None, score: float | None = None) -> Scores:
    return Scores(np.ones((2, 3)), accuracy, score)


@pytest.mark.parametrize(
    ("comparison", "cost", "grade"),
    [
        (None, "cost not measured", Grade.UNKNOWN),
        (compared(scores(98.0), scores(97.9)), "accuracy 98.00 → 97.90 % (-0.10)", Grade.GOOD),
        (compared(scores(98.0), scores(97.0)), "accuracy 98.00 → 97.00 % (-1.00)", Grade.FAIR),
        (compared(scores(98.0), scores(90.0)), "accuracy 98.00 → 90.00 % (-8.00)", Grade.BAD),
        (
            compared(scores(100.0), scores(95.74), Rows.VECTORS),
            "cosine 0.9574 with the dense network",
            Grade.BAD,
        ),
        (compared(scores(90.0), scores(89.8), Rows.VALUES), "R² 0.9000 → 0.8980", Grade.GOOD),
        (
            compared(
                replace(scores(30.0), perplexity=20.0), replace(scores(29.0), perplexity=21.0)
            ),
            "perplexity 20 → 21 (+5.0 %)",
            Grade.FAIR,
        ),
        (
            compared(scores(), scores()),
            "agreement 100.00 % with the dense network",
            Grade.GOOD,
        ),
        (compared(scores(score=2.5), scores(score=2.25)), "score 2.5 → 2.25", Grade.UNKNOWN),
    ],
)
def test_the_cost_is_in_the_networks_own_terms(
    report: Report, comparison: Comparison | None, cost: str, grade: Grade
) -> None:
    title = headline(replace(report, comparison=comparison))
    assert title is not None
    assert (title.size, title.cost, title.grade) == ("7.17× smaller", cost, grade)


def test_sizes_near_the_old_one_are_percentages(report: Report) -> None:
    title = headline(replace(report, left=report.source.parameters * 3 // 4))
    assert title is not None
    assert title.size == "25.0 % fewer parameters"
    title = headline(replace(report, left=report.source.parameters))
    assert title is not None
    assert title.size == "not smaller"


def test_only_a_smaller_network_has_a_headline(report: Report) -> None:
    assert headline(replace(report, action="analyze")) is None
    assert headline(replace(report, layers=())) is None


def test_an_analysis_says_whether_the_edge_is_a_guide(report: Report) -> None:
    analysis = replace(report, action="analyze")
    path = report.source.path
    assert dict(next_steps(analysis)) == {"next": f"rmtcli prune {path} --data samples.npz"}
    layers = tuple(
        replace(plan, fit=replace(plan.fit, verdict=Verdict.POOR_FIT)) for plan in report.layers
    )
    steps = dict(next_steps(replace(analysis, layers=layers)))
    assert steps["no guide"].startswith("2 of 2 layers do not follow the law")
    assert steps["next"] == f"rmtcli prune {path} --budget 70% --calib samples.npz"


def test_a_written_network_comes_with_the_line_that_loads_it(tmp_path: Path) -> None:
    target = tmp_path / "small.safetensors"
    written = rmtcli.prune(SAMPLES / "mnist_mlp.safetensors", target)
    assert dict(next_steps(written)) == {"load": f'model = rmtcli.load(model, "{target}")'}
    graph = replace(written, output=replace(written.output, path=tmp_path / "small.onnx"))
    line = f'session = onnxruntime.InferenceSession("{tmp_path / "small.onnx"}")'
    assert dict(next_steps(graph)) == {"load": line}


@pytest.mark.parametrize(
    ("architecture", "loader"),
    [
        ("LlamaForCausalLM", "AutoModelForCausalLM"),
        ("GPT2LMHeadModel", "AutoModelForCausalLM"),
        ("MT5ForConditionalGeneration", "AutoModelForSeq2SeqLM"),
        ("WhisperForConditionalGeneration", "AutoModel"),
        ("BertForSequenceClassification", "AutoModelForSequenceClassification"),
        ("BertModel", "AutoModel"),
        (None, "AutoModel"),
    ],
)
def test_a_directory_is_loaded_with_its_head(
    report: Report, tmp_path: Path, architecture: str | None, loader: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    written = replace(report, output=replace(report.source, path=str(tmp_path)))
    assert f'model = {loader}.from_pretrained("{tmp_path}")' in dict(next_steps(written))["load"]
