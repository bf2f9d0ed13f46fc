"""Calibration without a file, of directories whose networks read text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rmtcli import Calibration, Evaluation, Selection, curve, prune
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import EvaluationError, UsageError
from rmtcli.evaluation.made import joined, made_for
from rmtcli.evaluation.text import MASK
from rmtcli.planning import Budget
from rmtcli.report.summary import summary
from rmtcli.running.calibrate import CalibrationInputs
from tests.evaluation.test_tasks import data_for, directory

EVALUATION = Evaluation(task="sentence-embedding")
DEFAULT = "tokens:lines=1000,seed=0+prose:lines=1000,seed=0"
SMALL = "tokens:lines=8,seed=0"
#: One small layer, so that the many default inputs cost little.
ONE = Selection(include=["encoder.layer.0.attention.self.query.weight"])


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return directory("bert", tmp_path_factory.mktemp("made"))


def test_a_budget_without_inputs_takes_inputs_that_are_made(bert: Path, tmp_path: Path) -> None:
    options = {"budget": Budget("99%"), "selection": ONE, "evaluation": EVALUATION}
    report = prune(bert, tmp_path / "small", **options)  # type: ignore[arg-type]
    assert report.calibrated is not None
    assert report.calibrated.settings.data == DEFAULT
    assert report.calibrated.samples == 2000
    assert dict(summary(report))["calibrated"].startswith(f"2,000 samples of {DEFAULT}")
    assert any(note.startswith("no inputs were given") for note in report.notes)
    dry = prune(bert, dry_run=True, **options)  # type: ignore[arg-type]
    assert dry.plan == report.plan
    assert report.plan is not None
    again = prune(bert, plan=report.plan, evaluation=EVALUATION, dry_run=True)
    assert again.calibrated == report.calibrated
    assert [p.relative_error for p in again.pruned] == [p.relative_error for p in report.pruned]


def test_a_curve_without_inputs_takes_inputs_that_are_made(bert: Path, tmp_path: Path) -> None:
    evaluation = replace(EVALUATION, data=data_for("bert", tmp_path))
    report = curve(bert, sizes=["99%"], selection=ONE, evaluation=evaluation)
    assert report.calibrated is not None
    assert report.calibrated.settings.data == DEFAULT
    assert any(note.startswith("no inputs were given") for note in report.notes)


def test_none_is_a_budget_for_the_weights_alone(bert: Path) -> None:
    options = {"budget": Budget("70%"), "dry_run": True}
    report = prune(bert, calibration=Calibration("none"), **options)  # type: ignore[arg-type]
    assert report.calibrated is None
    with pytest.raises(UsageError, match='calibration="none" uses the weights alone'):
        prune(bert, calibration=Calibration("none", heal=1), **options)  # type: ignore[arg-type]


def test_statistics_know_the_inputs_that_were_made(bert: Path, tmp_path: Path) -> None:
    stats = tmp_path / "stats.safetensors"
    first, again, other = (
        Calibration(data, stats=stats) for data in ("tokens:lines=8", SMALL, "tokens:lines=9")
    )
    reports = [
        prune(bert, budget=Budget("70%"), evaluation=EVALUATION, calibration=c, dry_run=True)
        for c in (first, again)
    ]
    assert reports[0].plan == reports[1].plan
    with pytest.raises(UsageError, match="statistics of other data than tokens:lines=9"):
        prune(bert, budget=Budget("70%"), evaluation=EVALUATION, calibration=other, dry_run=True)


def test_a_few_lines_of_text_count_as_much_as_many_tokens(bert: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.txt"
    few.write_text("the cat sat on the mat\n" * 2)
    harness = EVALUATION.resolve(open_checkpoint(bert))
    source = CalibrationInputs.read(Calibration(f"{few}+{SMALL}"), harness)
    text = harness.read(few).inputs
    longest = text.shape[-1]
    matching = (source.inputs[..., :longest] == text[0]).all((1, 2))
    assert len(source.inputs) == 16
    assert matching.sum() == 8
    lengths = source.inputs[:, MASK].sum(1)
    assert (np.diff(lengths) >= 0).all()


def test_sources_with_and_without_segments_are_joined(bert: Path) -> None:
    samples, _ = made_for(Evaluation(task="sentence-embedding").resolve(open_checkpoint(bert)))
    wider = replace(samples, inputs=np.pad(samples.inputs, ((0, 0), (0, 1), (0, 5))))
    both = joined([samples, wider])
    assert both.inputs.shape == (64, samples.inputs.shape[1], samples.inputs.shape[2] + 5)
    assert both.targets is None


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("missing.txt+tokens", UsageError, "missing.txt: no such file"),
        ("tokens:lines=1", UsageError, "lines must be at least 2"),
        ("token", UsageError, "token: no such file"),
    ],
)
def test_wrong_inputs_are_refused(
    data: str, error: type[Exception], message: str, bert: Path
) -> None:
    with pytest.raises(error, match=message):
        prune(bert, evaluation=EVALUATION, calibration=Calibration(data), dry_run=True)


def test_a_directory_that_does_not_tell_its_task_is_refused(bert: Path) -> None:
    with pytest.raises(UsageError, match=r'name a task=: .* or give calibration="none"'):
        prune(bert, budget=Budget("70%"), dry_run=True)


def test_images_are_not_made_of_tokens(tmp_path: Path) -> None:
    source = directory("vit", tmp_path)
    report = prune(source, budget=Budget("70%"), dry_run=True)
    assert report.calibrated is None
    with pytest.raises(
        UsageError, match='calibration="tokens" is for a Hugging Face directory whose'
    ):
        prune(source, calibration=Calibration("tokens"), dry_run=True)


def test_a_directory_without_tokenizer_is_one_line(tmp_path: Path) -> None:
    source = directory("bert", tmp_path)
    for file in source.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(EvaluationError, match="its tokenizer cannot be read"):
        prune(source, budget=Budget("70%"), evaluation=EVALUATION, dry_run=True)
