"""Rounding to few bits: the grid, error feedback, and two factors one after the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmtcli.arrays import FloatArray
from rmtcli.quantization import Grid, nearest, round_left, round_weight, scale_type, with_feedback
from rmtcli.quantization.grid import choose_scales

BITS = (8, 6, 4, 3)


def weights(outputs: int = 24, inputs: int = 96, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).standard_normal((outputs, inputs)) / 10


def correlated(inputs: int, seed: int = 1) -> FloatArray:
    """The second moment of strongly correlated inputs."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((4 * inputs, 8)) @ rng.standard_normal((8, inputs))
    rows += 0.3 * rng.standard_normal(rows.shape)
    return rows.T @ rows / len(rows)


def loss(error: FloatArray, second: FloatArray) -> float:
    return float(np.einsum("ij,jk,ik->", error, second, error))


@given(
    bits=st.integers(2, 8),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 150)),
    columnwise=st.booleans(),
    seed=st.integers(0, 99),
)
def test_no_entry_is_farther_than_its_group_allows(
    bits: int, shape: tuple[int, int], columnwise: bool, seed: int
) -> None:
    weight = weights(*shape, seed=seed)
    grid = Grid(bits, 32, columnwise=columnwise)
    rounded = nearest(weight, grid)
    scales = np.abs(grid.spread(rounded.scales, *shape))
    inside = np.abs(weight) <= scales * grid.largest
    assert np.all(np.abs(weight - rounded.values)[inside] <= 0.5001 * scales[inside])
    assert rounded.codes.min() >= -(2 ** (bits - 1))
    assert rounded.codes.max() <= grid.largest


@pytest.mark.parametrize("shape", [(96, 64), (24, 96)])
def test_rows_make_up_for_errors_of_others_where_outputs_are_used_alike(
    shape: tuple[int, int],
) -> None:
    """With G, the loss tr(G E C Eᵀ) is smaller than with feedback along rows alone."""
    weight, second, outputs = weights(*shape), correlated(shape[1]), correlated(shape[0], seed=2)
    losses = []
    for metric in (None, outputs):
        error = with_feedback(weight, second, Grid(3), metric).values - weight
        losses.append(float(np.einsum("ij,ij->", outputs @ error, error @ second)))
    assert losses[1] < 0.8 * losses[0]


def test_outputs_that_are_used_independently_change_nothing() -> None:
    weight, second = weights(), correlated(96)
    own = with_feedback(weight, second, Grid(4), np.eye(24)).codes
    assert np.array_equal(own, with_feedback(weight, second, Grid(4)).codes)


def test_groups_along_columns_are_those_of_the_transposed_matrix() -> None:
    weight = weights(96, 24)
    columns = nearest(weight, Grid(4, columnwise=True))
    rows = nearest(weight.T, Grid(4))
    assert np.array_equal(columns.values, rows.values.T)
    assert np.array_equal(columns.transposed.values, rows.values)


def test_a_group_of_zeros_stays_zero() -> None:
    weight = weights()
    weight[3] = 0
    assert not nearest(weight, Grid(3)).values[3].any()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("second", [None, correlated(96)], ids=["nearest", "feedback"])
def test_a_mirrored_matrix_is_rounded_to_the_mirrored_one(
    bits: int, second: FloatArray | None
) -> None:
    """Signs of singular vectors are arbitrary, and there is one more code below 0 than above."""
    weight, grid = weights(), Grid(bits)
    once, mirrored = (round_weight(x, second, grid).values for x in (weight, -weight))
    assert np.array_equal(mirrored, -once)


def test_scales_minimise_the_weighted_error() -> None:
    weight, importance = weights(), np.linspace(0.01, 4, 96)
    plain, weighted = (nearest(weight, Grid(3), given) for given in (None, importance))
    errors = [float((importance * (x.values - weight) ** 2).sum()) for x in (plain, weighted)]
    assert errors[1] < errors[0]


@pytest.mark.parametrize(("size", "expected"), [(1.0, "F16"), (1e-6, "BF16"), (1e8, "BF16")])
def test_scales_are_values_of_the_type_that_stores_them(size: float, expected: str) -> None:
    scales = choose_scales(size * weights(), Grid(4))
    assert scale_type(scales) == expected
    if expected == "F16":
        assert np.array_equal(scales.astype(np.float16).astype(np.float32), scales)
    else:
        assert not (scales.view(np.uint32) & 0xFFFF).any()


@pytest.mark.parametrize("bits", BITS)
def test_feedback_changes_the_outputs_less_than_rounding_to_nearest(bits: int) -> None:
    weight, second = weights(), correlated(96)
    grid = Grid(bits)
    near, fed = (round_weight(weight, given, grid) for given in (None, second))
    assert loss(fed.values - weight, second) < 0.5 * loss(near.values - weight, second)


def test_feedback_with_uncorrelated_inputs_is_rounding_to_nearest() -> None:
    weight = weights()
    fed = round_weight(weight, np.eye(96), Grid(4))
    assert np.array_equal(fed.codes, nearest(weight, Grid(4)).codes)


@pytest.mark.parametrize("known", [True, False])
def test_the_left_factor_makes_up_for_the_right_ones_errors(known: bool) -> None:
    left, right, second = weights(40, 12), weights(12, 96, seed=2), correlated(96)
    given = second if known else None
    first = round_weight(right, given, Grid(3)).values.astype(float)
    grid = Grid(3).along_longer(left.shape)
    fitted = round_left(left, right, first, given, grid).values
    metric = second if known else np.eye(96)
    errors = [x @ first - left @ right for x in (nearest(left, grid).values, fitted)]
    assert loss(errors[1], metric) < loss(errors[0], metric)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("shape", "columnwise"), [((5, 70), False), ((70, 5), True)])
def test_the_size_of_a_matrix_by_hand(bits: int, shape: tuple[int, int], columnwise: bool) -> None:
    # 5 rows of 70 codes in words of 32 bits, and one scale of 16 bits a row.
    words = {8: 18, 6: 14, 4: 9, 3: 7}[bits]
    assert Grid(bits, columnwise=columnwise).nbytes(*shape) == 5 * (4 * words + 2 * 1)
