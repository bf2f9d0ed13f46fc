"""A dense network that is worse than chance at its task is refused before anything is done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rmtcli import Calibration, Evaluation, curve, evaluate, prune
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import EvaluationError
from rmtcli.evaluation.score import Scorer
from rmtcli.planning import Budget
from tests.evaluation.test_tasks import data_for, directory


def linear(folder: Path, sign: int) -> tuple[Path, Path]:
    """A network of two layers and 60 samples, of which it is right for all or for none."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 4))
    torch.save(network.state_dict(), folder / "model.pt")
    inputs = torch.randn(60, 40)
    with torch.no_grad():
        targets = (sign * network(inputs)).argmax(1)
    np.savez(folder / "data.npz", inputs=inputs, targets=targets)
    return folder / "model.pt", folder / "data.npz"


def test_an_accuracy_below_chance_stops_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = linear(tmp_path, -1)
    evaluation, calibration = Evaluation(data), Calibration(data)
    message = (
        r"data\.npz: the dense network is worse than chance: it is right for 0\.0 % of 60 samples, "
        r"and a guess among 4 classes for 25\.0 %: are the targets numbered as its outputs are"
    )

    def calibrated(*arguments: object) -> None:
        raise AssertionError("a network worse than chance was calibrated")

    monkeypatch.setattr("rmtcli.pipeline.prepare._calibrate", calibrated)
    with pytest.raises(EvaluationError, match=message):
        prune(model, evaluation=evaluation, calibration=calibration, budget=Budget("50%"))
    with pytest.raises(EvaluationError, match=message):
        curve(model, sizes=["50%"], evaluation=evaluation, calibration=calibration)
    with pytest.raises(EvaluationError, match=message):
        evaluate(model, evaluation=evaluation)
    assert not (tmp_path / "model.pruned.pt").exists()


def test_chance_and_a_compressed_network_are_no_error(tmp_path: Path) -> None:
    model, data = linear(tmp_path, 1)
    evaluation = Evaluation(data)
    small = tmp_path / "small.pt"
    prune(model, small, evaluation=evaluation, budget=Budget("50%"))
    arrays = dict(np.load(data))
    np.savez(data, inputs=arrays["inputs"], targets=(arrays["targets"] + 1) % 4)
    # The targets are now wrong for both, but only the dense network is checked.
    evaluate(small, evaluation=evaluation)
    with pytest.raises(EvaluationError, match="worse than chance"):
        evaluate(small, evaluation=evaluation, against=model)
    np.savez(data, inputs=arrays["inputs"], targets=np.arange(60) % 4)  # 15 of 60 by chance
    evaluate(model, evaluation=evaluation)


def test_a_perplexity_far_above_the_vocabulary_is_refused(tmp_path: Path) -> None:
    source, data = directory("gpt2", tmp_path), data_for("gpt2", tmp_path)
    evaluation = Evaluation(data, task="causal-lm:length=16")
    harness = evaluation.resolve(open_checkpoint(source))
    Scorer(harness, harness)
    # The last norm, 30 times as large, makes the network sure of its wrong guesses.
    tensors = load_file(source / "model.safetensors")
    tensors["transformer.ln_f.weight"] *= 30
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    message = r"its perplexity is [\d,]{5,}, and that of a guess among 99 tokens is 99: is this its"
    with pytest.raises(EvaluationError, match=message):
        evaluate(source, evaluation=evaluation)
