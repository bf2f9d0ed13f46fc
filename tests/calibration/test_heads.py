"""Fewer units in attention heads: the predicted loss, and what the layers become."""

from __future__ import annotations

import numpy as np
import pytest

from rmtcli.arrays import FloatArray
from rmtcli.calibration import Moments, narrow_queries, narrow_units, narrow_values

ROWS, SAMPLES, HEADS, UNITS, INPUTS = 300, 100, 3, 5, 9


def correlated(width: int, seed: int) -> FloatArray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(ROWS, width)) @ rng.normal(size=(width, width)) + 0.5


def moments_of(x: FloatArray, gradients: FloatArray) -> Moments:
    second = gradients.T @ gradients / ROWS
    return Moments(ROWS, SAMPLES, x.mean(0), x.T @ x / ROWS, second)


def loss_of(error: FloatArray, own: Moments, *, gradients: bool = True) -> float:
    """The loss on the samples themselves: uses · E (error · G · error)."""
    assert own.gradient is not None
    metric = own.gradient if gradients else np.eye(error.shape[1])
    return float(own.uses * np.einsum("ij,jk,ik->i", error, metric, error).mean())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
def test_the_predicted_loss_of_values_is_the_measured_one(bias: bool, gradients: bool) -> None:
    rng, mixed = np.random.default_rng(0), correlated(HEADS * UNITS, 1)
    weight = rng.normal(size=(4, HEADS * UNITS))
    own = moments_of(mixed, correlated(4, 2))
    values = rng.normal(size=(HEADS * UNITS, INPUTS))
    made = narrow_values(values, weight, own, HEADS, bias=bias, gradients=gradients)
    previous = np.inf
    for width in range(UNITS + 1):
        (reader,) = made.readers(width)
        error = mixed @ weight.T - made.rows(0, width, mixed.T).T @ reader.weight.T
        if bias:
            assert reader.shift is not None
            error -= reader.shift
        measured = loss_of(error, own, gradients=gradients)
        assert made.loss(width) == pytest.approx(measured, rel=1e-6, abs=1e-6)
        # The table of losses bounds the exact ones, closely.
        assert measured - 1e-6 <= made.losses[width] <= 1.05 * measured + 0.01 * made.losses[0]
        assert measured <= previous + 1e-9
        previous = measured
    # New values are about as large as old ones.
    sizes = [np.linalg.norm(x, axis=1) for x in (values, made.rows(0, UNITS, values))]
    np.testing.assert_allclose(sizes[1], sizes[0].mean())


@pytest.mark.parametrize("gradients", [True, False])
def test_the_predicted_loss_of_queries_is_the_measured_one(gradients: bool) -> None:
    rng, x, y = np.random.default_rng(0), correlated(INPUTS, 1), correlated(INPUTS, 2)
    queries, keys = rng.normal(size=(2, HEADS * UNITS, INPUTS))
    pair = moments_of(x, correlated(HEADS * UNITS, 3)), moments_of(y, correlated(2, 4))
    made = narrow_queries(queries, keys, pair, HEADS, gradients=gradients)
    k = (y @ keys.T).reshape(ROWS, HEADS, UNITS)
    for width in range(UNITS + 1):
        new, other = made.rows(0, width, queries), made.rows(1, width, keys)
        short = [(a @ b.T).reshape(ROWS, HEADS, width) for a, b in ((x, new), (y, other))]
        q = (x @ queries.T).reshape(ROWS, HEADS, UNITS)
        # What all keys see of the queries: q' with q'·k = new q · new k for every k.
        seen = np.stack(
            [
                short[0][:, h] @ np.linalg.lstsq(k[:, h], short[1][:, h], rcond=None)[0].T
                for h in range(HEADS)
            ],
            1,
        )
        error = (q - seen).reshape(ROWS, -1)
        if gradients:
            measured = loss_of(error, pair[0])
        else:
            scores = np.einsum("ihu,jhu->hij", q - seen, k)
            measured = pair[0].uses * float((scores**2).sum(0).mean())
        assert made.loss(width) == pytest.approx(measured, rel=1e-6, abs=1e-6)
    sizes = [np.linalg.norm(made.rows(i, UNITS, w), axis=1) for i, w in enumerate((queries, keys))]
    np.testing.assert_allclose(sizes[0], sizes[1])


def test_directions_lose_less_than_units() -> None:
    """Of one head, whose units may be chosen as those of any hidden layer are."""
    mixed, rng = correlated(UNITS, 1), np.random.default_rng(0)
    weight, own = rng.normal(size=(4, UNITS)), moments_of(mixed, correlated(4, 2))
    options = {"bias": False, "gradients": True}
    made = narrow_values(rng.normal(size=(UNITS, INPUTS)), weight, own, 1, **options)
    units = narrow_units([weight], [own], **options)
    assert all(made.loss(width) < units.loss(width) for width in range(1, UNITS))


def test_gradients_move_with_the_units() -> None:
    """A network's gradient of new outputs is that of the old ones, through their inverse."""
    rng = np.random.default_rng(0)
    queries, keys = rng.normal(size=(2, HEADS * UNITS, INPUTS))
    pair = (
        moments_of(correlated(INPUTS, 1), correlated(HEADS * UNITS, 3)),
        moments_of(correlated(INPUTS, 2), correlated(2, 4)),
    )
    made = narrow_queries(queries, keys, pair, HEADS, gradients=True)
    slope = rng.normal(size=HEADS * UNITS)
    for writer in (0, 1):
        maps = made.rows(writer, UNITS, np.eye(HEADS * UNITS))
        new = np.linalg.solve(maps.T, slope)  # new · (maps z) = slope · z
        moment = made.outputs(writer, UNITS, np.outer(slope, slope))
        np.testing.assert_allclose(moment, np.outer(new, new), rtol=1e-6, atol=1e-9)
