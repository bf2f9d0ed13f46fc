"""Choosing the units of a hidden layer, and refitting what reads them."""

from __future__ import annotations

import numpy as np
import pytest

from rmtcli.arrays import FloatArray
from rmtcli.calibration import Moments, Narrowing, narrow_units
from rmtcli.calibration.narrow import RIDGE, eliminate

ROWS, SAMPLES = 400, 200


def hidden(units: int, seed: int = 0) -> FloatArray:
    """Correlated units after a ReLU: means that are not 0, and one unit that is always 0."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(ROWS, units)) @ rng.normal(size=(units, units)) + 1
    values[:, 1] = 0
    return np.maximum(values, 0)


def moments_of(h: FloatArray, gradients: FloatArray | None = None) -> Moments:
    second = None if gradients is None else gradients.T @ gradients / ROWS
    return Moments(ROWS, SAMPLES, h.mean(0), h.T @ h / ROWS, second)


def example(
    units: int = 12, *, bias: bool = True, readers: int = 1
) -> tuple[Narrowing, FloatArray]:
    """A narrowing in the two-sided metric, and the units that it was made from."""
    rng, h = np.random.default_rng(1), hidden(units)
    weights = [rng.normal(size=(5 + i, units)) for i in range(readers)]
    moments = [moments_of(h, rng.normal(size=(ROWS, len(w))) ** 3) for w in weights]
    return narrow_units(weights, moments, bias=bias, gradients=True), h


def measured(made: Narrowing, h: FloatArray, width: int) -> float:
    """The loss on the samples themselves: Σ uses · E (error · G · error)."""
    total = 0.0
    for weight, reader, own in zip(made.weights, made.readers(width), made.moments, strict=True):
        error = h @ weight.T - h[:, made.units(width)] @ reader.weight.T
        if made.bias:
            assert reader.shift is not None
            error -= reader.shift
            assert np.allclose(error.mean(0), 0)
        assert own.gradient is not None
        total += own.uses * np.einsum("ij,jk,ik->i", error, own.gradient, error).mean()
    return float(total)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("readers", [1, 2])
def test_the_predicted_loss_is_the_measured_one(bias: bool, readers: int) -> None:
    made, h = example(bias=bias, readers=readers)
    for width in (1, 4, 8, 11):
        assert made.loss(width) == pytest.approx(measured(made, h, width), rel=1e-6)


def test_the_table_of_losses_bounds_the_exact_ones_closely() -> None:
    made, _ = example()
    exact = [made.loss(width) for width in range(1, 12)]
    assert np.all(np.diff(made.losses) <= 0)
    assert np.all(exact <= made.losses[1:12] * (1 + 1e-9))
    # The ridge is a ten-thousandth of the units' mean variance.
    assert made.losses[1:6] == pytest.approx(exact[:5], rel=0.01)
    assert made.losses[12] == 0


def test_every_unit_is_dropped_at_the_least_cost_by_exhaustive_search() -> None:
    """Each step compares all units that are left, with a least-squares solve for each."""
    rng = np.random.default_rng(3)
    units = 60  # more than one block of updates
    root = rng.normal(size=(units, units))
    second, weight = root @ root.T, rng.normal(size=(7, units))
    order, costs = eliminate(np.linalg.inv(second), weight.T @ weight)
    left, total = list(range(units)), 0.0
    for unit, cost in zip(order, costs, strict=True):
        losses = [_loss(second, weight, [x for x in left if x != other]) for other in left]
        assert unit == left[int(np.argmin(losses))]
        assert total + cost == pytest.approx(min(losses), rel=1e-6)
        total += cost
        left.remove(unit)


def test_forward_selection_adds_the_unit_that_removes_most_of_the_loss() -> None:
    rng = np.random.default_rng(4)
    root = rng.normal(size=(9, 9))
    second, weight = root @ root.T, rng.normal(size=(7, 9))
    order, gains = eliminate(second, second @ weight.T @ weight @ second, largest=True)
    chosen: list[int] = []
    for unit, gain in zip(order, gains, strict=True):
        rest = [x for x in range(9) if x not in chosen]
        losses = [_loss(second, weight, [*chosen, other]) for other in rest]
        assert unit == rest[int(np.argmin(losses))]
        assert gain == pytest.approx(_loss(second, weight, chosen) - min(losses), abs=1e-6)
        chosen.append(int(unit))


def _loss(second: FloatArray, weight: FloatArray, units: list[int]) -> float:
    """tr(W S Wᵀ) with S the Schur complement of the units."""
    own, cross = second[np.ix_(units, units)], second[units]
    rest = second - cross.T @ np.linalg.solve(own, cross) if units else second
    return float(np.trace(weight @ rest @ weight.T))


def test_all_units_give_the_dense_layer_back() -> None:
    made, _ = example()
    (reader,) = made.readers(12)
    assert np.allclose(reader.weight, made.weights[0], atol=1e-9)
    assert reader.shift is not None
    assert np.allclose(reader.shift, 0, atol=1e-9)
    assert made.loss(12) == pytest.approx(0, abs=1e-9)


def test_the_refit_is_least_squares() -> None:
    made, h = example()
    units, (reader,) = made.units(6), made.readers(6)
    columns = np.column_stack([h[:, units], np.ones(ROWS)])
    solution = np.linalg.lstsq(columns, h @ made.weights[0].T, rcond=None)[0].T
    assert reader.weight == pytest.approx(solution[:, :-1], abs=20 * RIDGE * np.abs(solution).max())
    assert np.all(np.diff(units) > 0)


def test_a_copy_of_a_unit_and_a_constant_one_cost_nothing() -> None:
    rng, h = np.random.default_rng(5), hidden(8)
    h[:, 3], h[:, 5] = h[:, 2], 4.0
    weight = rng.normal(size=(5, 8))
    made = narrow_units([weight], [moments_of(h)], bias=True, gradients=False)
    assert made.losses[5] < 0.01 * made.losses[4]
    assert {1, 5} < set(range(8)) - set(made.units(5))
    assert made.loss(5) < 0.01 * made.loss(4)


def test_gradients_that_were_not_collected_are_an_error() -> None:
    with pytest.raises(ValueError, match="no output gradients"):
        narrow_units([np.ones((2, 4))], [moments_of(hidden(4))], bias=True, gradients=True)
