"""One layer's matrices in few bits: their losses, and the metric that they are rounded in."""

from __future__ import annotations

import numpy as np
import pytest

from rmtcli.calibration import Moments, decompose
from rmtcli.planning import LayerCalibration
from rmtcli.planning.rounded_layer import Matrices, Metric, round_matrices
from rmtcli.quantization import Grid
from rmtcli.spectra import pivots


def calibration(outputs: int, inputs: int) -> LayerCalibration:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((900, inputs)) * np.exp(-2 * np.arange(inputs) / inputs) + 0.3
    g = rng.standard_normal((900, outputs)) @ rng.standard_normal((outputs, outputs)) / 9
    return LayerCalibration(Moments(900, 900, x.mean(0), x.T @ x / 900, g.T @ g / 900), True, True)


def layer(kind: str, weight: np.ndarray, seen: LayerCalibration) -> tuple[Matrices, float | None]:
    """A weight as it is, or its best approximation of rank 20, and the loss of that."""
    if kind == "dense":
        return Matrices([weight]), None
    maps = decompose(weight, seen.moments, bias=True, gradients=True)
    factors, loss = maps.factors(20), maps.loss(20) / maps.loss(0)
    if kind == "factored":
        return Matrices([factors.right, factors.left]), loss
    made = pivots(factors.left, factors.right)
    others = np.delete(np.arange(len(weight)), made.rows)
    order = np.empty(len(weight), np.int64)
    order[made.rows], order[others] = np.arange(20), 20 + np.arange(len(others))
    return Matrices([made.core, made.coefficients[others]], order), loss


@pytest.mark.parametrize("kind", ["dense", "factored", "pivoted"])
def test_the_loss_of_a_rounded_layer_is_that_of_its_outputs(kind: str) -> None:
    weight = np.random.default_rng(0).standard_normal((60, 48)) / 7
    seen = calibration(60, 48)
    metric = Metric.of(seen)
    before, known = layer(kind, weight, seen)
    rounded = round_matrices(before, Grid(4).of(before.parts[0].shape), metric)
    after = Matrices([part.values.astype(np.float64) for part in rounded], before.order)
    assert np.allclose(before.outputs(np.eye(48)), before.product)
    whole = metric.square(after.product - weight) / metric.square(weight)
    # Not exact: small eigenvalues of G are raised before weights are approximated.
    assert metric.loss(before, after, known) == pytest.approx(whole, rel=0.02)


@pytest.mark.parametrize("kind", ["dense", "factored", "pivoted"])
def test_a_layer_without_calibration_is_rounded_and_has_no_loss(kind: str) -> None:
    weight = np.random.default_rng(0).standard_normal((60, 48)) / 7
    before, _ = layer(kind, weight, calibration(60, 48))
    metric = Metric.of(None)
    rounded = round_matrices(before, Grid(8), metric)
    after = Matrices([part.values.astype(np.float64) for part in rounded], before.order)
    assert metric.loss(before, after, None) is None
    assert np.abs(after.product - before.product).max() < 0.02 * np.abs(before.product).max()
