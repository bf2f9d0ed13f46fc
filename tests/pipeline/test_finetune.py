"""Pruning followed by a few epochs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rmtcli
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import EvaluationError, RmtcliError, TrainingError, UsageError
from rmtcli.planning import Budget
from rmtcli.running.finetune import Training
from tests.conftest import DIGITS, SAMPLES, Run, tree

DEEP, DATA = DIGITS / "digits.pt", DIGITS / "digits.npz"
EVALUATION = rmtcli.Evaluation(DATA)


def accuracies(report: Any) -> tuple[float, float, float]:
    result = report.comparison
    return result.before.accuracy, result.unhealed.accuracy, result.after.accuracy


def test_training_recovers_the_accuracy_lost_by_pruning(tmp_path: Path) -> None:
    """Plain truncation at the edge costs points; two epochs bring most of them back."""
    out = tmp_path / "small.safetensors"
    settings = Training(epochs=2, distill=0.5)
    report = rmtcli.finetune(DEEP, out, evaluation=EVALUATION, keep="edge", training=settings)
    dense, pruned, tuned = accuracies(report)
    assert pruned < dense - 1
    assert tuned > pruned + 0.5 * (dense - pruned)
    again = rmtcli.evaluate(out, evaluation=EVALUATION)
    assert again.comparison.after.accuracy == tuned
    ranks = {plan.layer.module: plan.rank for plan in report.pruned}
    assert len(ranks) == 4
    assert open_checkpoint(out).manifest.factored == ranks
    assert report.parameters == (open_checkpoint(DEEP).parameters, open_checkpoint(out).parameters)


def test_a_pruned_checkpoint_learns_from_the_dense_network(tmp_path: Path) -> None:
    small, out = tmp_path / "small.pt", tmp_path / "tuned.pt"
    rmtcli.prune(DEEP, small, keep="edge")
    settings = Training(epochs=1, distill=1.0)
    report = rmtcli.finetune(small, out, evaluation=EVALUATION, teacher=DEEP, training=settings)
    dense, pruned, tuned = accuracies(report)
    assert dense > tuned > pruned
    before, after = (torch.load(path, weights_only=True) for path in (small, out))
    assert list(before["model_state_dict"]) == list(after["model_state_dict"])
    assert after["epoch"] == 8
    moved = after["model_state_dict"]["fc1.0.weight"] - before["model_state_dict"]["fc1.0.weight"]
    assert moved.abs().max() > 0


def test_a_budget_is_met_and_the_same_seed_gives_the_same_result(tmp_path: Path) -> None:
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for file in files:
        rmtcli.finetune(
            DEEP, file, evaluation=EVALUATION, budget=Budget("5%"), training=Training(epochs=1)
        )
    a, b = (open_checkpoint(file) for file in files)
    assert a.parameters <= 0.05 * 1_061_130
    for name in a.infos:
        np.testing.assert_array_equal(a.array(name), b.array(name))


def without_labels(folder: Path) -> Path:
    arrays = dict(np.load(DATA))
    path = folder / "unlabelled.npz"
    np.savez(path, inputs=arrays["inputs"][:200], train_inputs=arrays["train_inputs"][:256])
    return path


def test_labels_are_not_needed_where_only_the_teacher_teaches(tmp_path: Path) -> None:
    evaluation = rmtcli.Evaluation(without_labels(tmp_path))
    with pytest.raises(EvaluationError, match="has no 'train_targets': add them, or set distill="):
        rmtcli.finetune(DEEP, tmp_path / "x.pt", evaluation=evaluation)
    done = rmtcli.finetune(
        DEEP, tmp_path / "x.pt", evaluation=evaluation, training=Training(1, distill=1.0)
    )
    assert done.comparison.agreement > 50


@pytest.mark.parametrize(
    ("options", "error", "line"),
    [
        ({"evaluation": rmtcli.Evaluation()}, UsageError, "nothing to train on: give data="),
        ({"teacher": DEEP}, UsageError, "is dense, and its own teacher: leave out teacher="),
        ({"keep": "rank:k=1000"}, UsageError, "no layer can be pruned by keep rank:k=1000"),
        ({"path": "gone.pt"}, RmtcliError, "gone.pt: no such file"),
        ({"path": SAMPLES}, UsageError, "is a directory: train it with"),
        ({"output": DEEP}, UsageError, "digits.pt"),
        (
            {"training": {"epochs": 0}},
            UsageError,
            "epochs and samples in a batch must be at least 1",
        ),
        ({"training": {"lr": 0.0}}, UsageError, "lr= must be above 0"),
        ({"training": {"distill": 1.5}}, UsageError, "distill= must be from 0 to 1"),
        ({"training": {"lr": 1e30}}, TrainingError, "the loss is nan in pass 1: lower lr="),
    ],
)
def test_wrong_requests(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], line: str
) -> None:
    output = tmp_path / "out.pt"
    arguments = {"path": DEEP, "output": output, "evaluation": EVALUATION, "keep": "edge"} | options

    def request() -> None:
        if "training" in options:
            arguments["training"] = Training(**options["training"])
        rmtcli.finetune(**arguments)

    with pytest.raises(error, match=line):
        request()
    assert not output.exists()


def test_a_pruned_checkpoint_refuses_options_of_pruning(tmp_path: Path) -> None:
    small = tmp_path / "small.pt"
    rmtcli.prune(DEEP, small, keep="edge")
    with pytest.raises(UsageError, match="is pruned already: leave out keep= and budget="):
        rmtcli.finetune(small, evaluation=EVALUATION, keep="edge")
    with pytest.raises(UsageError, match="distill= needs the dense network: name it with"):
        rmtcli.finetune(small, evaluation=EVALUATION, training=Training(distill=0.5))
    assert set(tree(tmp_path)) == {"small.pt"}


def test_the_command(tmp_path: Path, rmtcli: Run) -> None:
    shutil.copy(DEEP, tmp_path)
    done = rmtcli(
        "finetune",
        "digits.pt",
        "--data",
        DATA,
        "--keep",
        "edge",
        "--epochs",
        1,
        "--distill",
        0.5,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "before fine-tuning" in done.stdout
    assert (tmp_path / "digits.finetuned.pt").exists()
    again = rmtcli("finetune", "digits.pt", "--data", DATA, cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert "--force" in again.stderr
    record = rmtcli(
        "finetune",
        "digits.pt",
        "--data",
        DATA,
        "--epochs",
        1,
        "--keep",
        "edge",
        "-o",
        "x.pt",
        "--json",
        cwd=tmp_path,
    )
    assert json.loads(record.stdout)["action"] == "finetune"
