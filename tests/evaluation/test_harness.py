from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rmtcli import Evaluation, prune
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import UsageError
from rmtcli.evaluation import tasks
from rmtcli.planning import Budget


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 32))
    torch.save(network.state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 40)).astype(np.float32), rng.integers(0, 32, 60)
    np.savez(tmp_path / "data.npz", inputs=x, targets=y, train_inputs=x, train_targets=y)
    return tmp_path / "data.npz"


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    """The calls of a function of the tasks' module, noted as they happen."""
    calls: list[Any] = []
    function: Callable[..., Any] = getattr(tasks, name)

    def noting(*arguments: Any) -> Any:
        calls.append(arguments)
        return function(*arguments)

    monkeypatch.setattr(tasks, name, noting)
    return calls


def test_one_run_reads_the_held_out_samples_once(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Search, scoring and timing all need them; calibration reads the training part."""
    calls = counted(monkeypatch, "read_samples")
    report = prune(
        model,
        evaluation=Evaluation(data),
        max_drop=100,
        batches=[1],
        dry_run=True,
        share_inputs=False,
    )
    assert report.comparison is not None
    assert report.latency
    assert report.latency[0].network is not None
    assert [part for _, part in calls] == ["", "train_"]


def test_what_is_not_needed_is_not_read(model: Path, tmp_path: Path) -> None:
    harness = Evaluation(tmp_path / "missing.npz").resolve(open_checkpoint(model))
    assert harness.description == "a chain of linear layers with relu between them (inferred)"
    with pytest.raises(UsageError, match="no such file"):
        _ = harness.samples
    harness = Evaluation(task="causal-lm").resolve(open_checkpoint(model))  # measures nothing
    assert harness.samples is None


def test_a_wrong_task_is_reported_before_any_layer_is_decomposed(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def layers(items: Any) -> Any:
        raise AssertionError("layers were computed")

    with pytest.raises(
        UsageError,
        match='task="causal-lm" is for Hugging Face directories',
    ):
        prune(
            model,
            evaluation=Evaluation(data, task="causal-lm"),
            budget=Budget("50%"),
            dry_run=True,
            track=layers,
        )
