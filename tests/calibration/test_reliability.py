"""How far moments can be trusted: samples kept apart, losses on them, and advice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import rmtcli
from rmtcli.arrays import FloatArray
from rmtcli.calibration import (
    CLEANERS,
    Moments,
    Reliability,
    assess_moments,
    decompose,
    held_out_loss,
)
from rmtcli.calibration.collect import collect
from rmtcli.calibration.reliability import EXCESS, HeldOutLoss, kept_apart
from rmtcli.planning import Budget
from rmtcli.report.notes import rounded
from rmtcli.report.summary import summary
from tests.conftest import DIGITS

DEEP, MNIST = DIGITS / "digits.pt", DIGITS / "digits.npz"
RAW = CLEANERS.parse("none")


def moments_of(x: FloatArray, g: FloatArray, fold: Moments | None = None) -> Moments:
    n = len(x)
    return Moments(n, n, x.mean(0), x.T @ x / n, g.T @ g / n, False, n, n, fold)


def draw(seed: int, rows: int) -> tuple[FloatArray, FloatArray]:
    """Inputs and output gradients of one population, whose scales fall by direction."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 24)) / np.arange(1, 25) ** 0.5 + 0.3
    return x, rng.standard_normal((rows, 16)) / np.arange(1, 17) ** 0.5


def with_fold(seed: int, rows: int) -> Moments:
    x, g = draw(seed, rows)
    quarter = rows // 4
    return moments_of(x, g, moments_of(x[:quarter], g[:quarter]))


def test_every_fourth_batch_is_kept_apart() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    x = np.random.default_rng(1).standard_normal((22, 6)).astype(np.float32)
    made = collect(model, x, ["0", "2"], lambda m, rows: m(rows), batch=2)
    assert made["2"].fold is not None
    fold, rest = made["0"].fold, made["0"].without_fold
    assert fold is not None
    assert rest is not None
    apart = np.r_[6:8, 14:16]
    others = np.delete(x, apart, axis=0).astype(np.float64)
    own = x[apart].astype(np.float64)
    assert (fold.rows, rest.rows, rest.samples) == (4, 18, 18)
    for part, rows in ((fold, own), (rest, others)):
        np.testing.assert_allclose(part.mean, rows.mean(0), atol=1e-12)
        np.testing.assert_allclose(part.second, rows.T @ rows / len(rows), atol=1e-12)
    assert fold.gradient is not None
    assert rest.gradient is not None
    both = (4 * fold.gradient + 18 * rest.gradient) / 22
    np.testing.assert_allclose(both, made["0"].gradient, atol=1e-12)


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_losses_are_those_of_the_map_on_either_part(*, bias: bool, gradients: bool) -> None:
    x, g = draw(0, 80)
    moments = moments_of(x, g, moments_of(x[:20], g[:20]))
    weight = np.random.default_rng(1).standard_normal((16, 24))
    losses = held_out_loss(weight, 5, moments, RAW, bias=bias, gradients=gradients)
    rest = moments_of(x[20:], g[20:])
    factors = decompose(weight, rest, bias=bias, gradients=gradients).factors(5)
    centre = rest.mean if bias else np.zeros(24)
    for loss, rows, grads in zip(losses or (), (x[20:], x[:20]), (g[20:], g[:20]), strict=True):

        def size(maps: FloatArray, rows: FloatArray = rows, grads: FloatArray = grads) -> float:
            outputs = (rows - centre) @ maps.T
            if not gradients:
                return float((outputs**2).sum(1).mean())
            return float(((grads @ outputs.T) ** 2).mean())

        expected = size(weight - factors.left @ factors.right) / size(weight)
        assert loss == pytest.approx(expected, rel=1e-9)


def test_the_loss_of_outputs_is_that_of_inputs() -> None:
    x, g = draw(0, 80)
    weight = np.random.default_rng(1).standard_normal((16, 24))
    z = x @ weight.T
    by_inputs = moments_of(x, g, moments_of(x[:20], g[:20]))
    fold = replace(moments_of(z[:20], g[:20]), of_outputs=True)
    by_outputs = replace(moments_of(z, g, fold), of_outputs=True)
    options = {"bias": True, "gradients": True}
    losses = [held_out_loss(weight, 5, m, RAW, **options) for m in (by_inputs, by_outputs)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-8)


def test_the_excess_is_what_few_samples_cost() -> None:
    weight = np.random.default_rng(1).standard_normal((16, 24))
    truth = moments_of(*draw(99, 200_000))
    best = decompose(weight, truth, bias=True, gradients=True)
    assert truth.gradient is not None

    def cost(moments: Moments) -> float:
        """How much more the map of these moments loses in truth than the best map does."""
        factors = decompose(weight, moments, bias=True, gradients=True).factors(5)
        error = weight - factors.left @ factors.right
        loss = np.vdot(truth.gradient @ error @ truth.covariance, error)
        return float(loss) / best.loss(5) - 1

    stated, true = {}, {}
    for rows in (60, 600):
        draws = [with_fold(seed, rows) for seed in range(24)]
        losses = [held_out_loss(weight, 5, m, RAW, bias=True, gradients=True) for m in draws]
        known = assess_moments(draws, losses)
        assert known.loss is not None
        assert known.more == pytest.approx(max(1.0, known.loss.excess / EXCESS))
        stated[rows] = known.loss.excess
        true[rows] = float(np.mean([cost(m.without_fold or m) for m in draws]))
    for rows in stated:
        assert true[rows] / 2 < stated[rows] < 2 * true[rows]
    assert stated[60] > 4 * stated[600]


def test_without_anything_apart_there_is_no_loss_and_no_advice() -> None:
    moments = moments_of(*draw(0, 30))
    assert held_out_loss(np.eye(16, 24), 3, moments, RAW, bias=True, gradients=True) is None
    known = assess_moments([moments], [None])
    assert known == Reliability((30, 30, 30), (30, 30, 30), (24 / 30 + 16 / 30) / 2, None)
    assert known.more is None
    assert HeldOutLoss(0.0, 0.0, 1).excess == 0
    # Where little is lost, nothing is advised, however much of it few samples cost.
    assert Reliability(None, None, None, HeldOutLoss(0.0001, 0.0009, 1)).more == 1
    assert Reliability(None, None, None, HeldOutLoss(0.01, 0.03, 1)).more == pytest.approx(5)


def test_layers_are_kept_within_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = {"a": (10, 20), "b": (10, 20), "c": (30, 10)}
    assert kept_apart(widths) == set(widths)
    assert kept_apart({}) == set()
    monkeypatch.setattr("rmtcli.calibration.reliability.APART_BYTES", 1)
    assert len(kept_apart(widths)) == 1
    monkeypatch.setattr("rmtcli.calibration.reliability.APART_BYTES", 8 * 1500)
    assert len(kept_apart(widths)) == 2


def test_a_report_says_how_far_the_moments_can_be_trusted(tmp_path: Path) -> None:
    few = tmp_path / "few.npz"
    with np.load(MNIST) as data:
        np.savez(few, inputs=data["inputs"][:24])
    stats = tmp_path / "s.safetensors"
    calibration = rmtcli.Calibration(few, stats=stats)
    options = {"budget": Budget("4%"), "calibration": calibration, "dry_run": True}
    reports = [rmtcli.prune(DEEP, **options) for _ in range(2)]  # measured, then read
    calibrated = reports[0].calibrated
    assert calibrated is not None
    assert calibrated.reliability is not None
    loss = calibrated.reliability.loss
    assert loss is not None
    assert loss.layers == len(reports[0].pruned)
    assert 0 <= loss.own < loss.apart < 1
    record = reports[0].to_dict()["calibration"]["reliability"]
    assert record == reports[1].to_dict()["calibration"]["reliability"]
    assert record["more_samples"] > 1
    lines = dict(summary(reports[0]))
    assert f"held out {loss.apart:.2g}" in lines["moments"]
    notes = [note for note in reports[0].notes if note.startswith("more calibration samples")]
    assert f"{rounded(24 * record['more_samples']):,} instead of 24" in notes[0]


@pytest.mark.parametrize(
    ("number", "text"), [(7.0, "7"), (83.4, "83"), (1234.5, "1,200"), (15_900.0, "16,000")]
)
def test_advice_has_two_digits(number: float, text: str) -> None:
    assert f"{rounded(number):,}" == text
