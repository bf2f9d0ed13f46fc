"""The best low-rank maps of a layer in the metric of its data."""

from __future__ import annotations

import numpy as np
import pytest

from rmtcli.calibration import Moments, decompose, decompose_together
from rmtcli.calibration.measure import GRADIENT_FLOOR
from rmtcli.spectra import factorize, spectrum

SHAPES = [(30, 50), (50, 30), (40, 40)]


def sample(
    shape: tuple[int, int], rows: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Moments]:
    """Return a weight, correlated inputs of which a third are 0, output gradients, and moments."""
    rng = np.random.default_rng(seed)
    out, inputs = shape
    w = rng.standard_normal(shape)
    x = np.maximum(rng.standard_normal((rows, inputs)) @ rng.standard_normal((inputs, inputs)), 0)
    x[:, ::3] = 0
    x += np.where(np.arange(inputs) % 3 == 1, 5.0, 0.0)  # a mean that matters
    g = rng.standard_normal((rows, out)) @ rng.standard_normal((out, out)) / out
    moments = Moments(rows, rows, x.mean(0), x.T @ x / rows, g.T @ g / rows)
    return w, x, g, moments


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [5, 400])
@pytest.mark.parametrize("bias", [True, False])
def test_the_predicted_output_error_is_the_measured_one(
    shape: tuple[int, int], rows: int, bias: bool
) -> None:
    w, x, _, moments = sample(shape, rows)
    maps = decompose(w, moments, bias=bias, gradients=False)
    total = maps.loss(0)
    for rank in range(min(shape)):
        factors = maps.factors(rank)
        error = x @ (w - factors.product).T - (0 if factors.shift is None else factors.shift)
        measured = float((error**2).sum() / rows)
        assert maps.loss(rank) == pytest.approx(measured, rel=1e-6, abs=1e-12 * total)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_two_sided_loss_is_the_kronecker_form(shape: tuple[int, int]) -> None:
    w, x, g, moments = sample(shape, 400)
    maps = decompose(w, moments, bias=True, gradients=True)
    c = np.cov(x.T, bias=True)
    values, vectors = np.linalg.eigh(g.T @ g / len(g))
    curvature = (vectors * np.maximum(values, GRADIENT_FLOOR * values[-1])) @ vectors.T
    for rank in range(0, min(shape), 3):
        change = w - maps.factors(rank).product
        expected = np.trace(change @ c @ change.T @ curvature)
        assert maps.loss(rank) == pytest.approx(expected, rel=1e-6, abs=1e-9 * maps.loss(0))


@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_whitening_by_cholesky(shape: tuple[int, int]) -> None:
    """SVD-LLM (Wang et al., 2024) truncates W·L with C = L·Lᵀ and undoes L; C must be regular."""
    rng = np.random.default_rng(3)
    w = rng.standard_normal(shape)
    x = rng.standard_normal((500, shape[1])) @ rng.standard_normal((shape[1], shape[1]))
    moments = Moments(500, 500, x.mean(0), x.T @ x / 500, None)
    root = np.linalg.cholesky(moments.second)
    u, s, vh = np.linalg.svd(w @ root, full_matrices=False)
    expected = (u[:, :7] * s[:7]) @ vh[:7] @ np.linalg.inv(root)
    maps = decompose(w, moments, bias=False, gradients=False).factors(7).product
    np.testing.assert_allclose(maps, expected, atol=1e-6 * np.abs(expected).max())


def test_white_data_gives_plain_truncation() -> None:
    w = np.random.default_rng(0).standard_normal((20, 30))
    moments = Moments(1, 1, np.zeros(30), np.eye(30), np.eye(20))
    plain = factorize(w, spectrum(w, vectors=True), 6)
    for gradients in (True, False):
        maps = decompose(w, moments, bias=True, gradients=gradients).factors(6)
        np.testing.assert_allclose(maps.product, plain.product, atol=1e-10)
        np.testing.assert_allclose(maps.shift, 0, atol=1e-12)
        # Both factors have the same norm in each direction.
        np.testing.assert_allclose(
            np.linalg.norm(maps.left, axis=0), np.linalg.norm(maps.right, axis=1)
        )


def test_no_other_map_of_the_same_rank_is_better() -> None:
    w, x, _, moments = sample((30, 50), 400)
    centred = x - x.mean(0)
    best = decompose(w, moments, bias=True, gradients=False).factors(5).product
    loss = np.linalg.norm(centred @ (w - best).T)
    rng = np.random.default_rng(1)
    for size in (1e-3, 1e-2, 1e-1):
        u, s, vh = np.linalg.svd(best + size * rng.standard_normal(w.shape), full_matrices=False)
        other = (u[:, :5] * s[:5]) @ vh[:5]
        assert np.linalg.norm(centred @ (w - other).T) > loss


def test_gradients_that_were_not_collected_are_an_error() -> None:
    with pytest.raises(ValueError, match="no output gradients"):
        decompose(np.eye(3), Moments(1, 1, np.zeros(3), np.eye(3), None), bias=True, gradients=True)


def siblings(outs: tuple[int, ...], rows: int, *, uses: int = 1) -> tuple[np.ndarray, list, list]:
    """Return inputs, and weights and moments of layers; the last layer runs ``uses`` times."""
    w, x, _, first = sample((sum(outs), 40), rows)
    g = np.random.default_rng(1).standard_normal((rows, sum(outs))) * np.arange(1, sum(outs) + 1)
    cuts = np.cumsum(outs)[:-1]
    moments = [
        Moments(rows * (uses if i == len(outs) - 1 else 1), rows, first.mean, first.second, p.T @ p)
        for i, p in enumerate(np.split(g / rows, cuts, axis=1))
    ]
    return x, np.split(w, cuts), moments


@pytest.mark.parametrize("outs", [(30, 30, 30), (40, 8, 8), (12, 6)])
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_the_predicted_loss_of_siblings_is_the_measured_one(
    outs: tuple[int, ...], gradients: bool, bias: bool
) -> None:
    x, weights, moments = siblings(outs, 300, uses=2)
    maps = decompose_together(weights, moments, bias=bias, gradients=gradients)
    for rank in range(min(sum(outs), 40)):
        measured = 0.0
        factors = [item.factors(rank) for item in maps]
        for w, m, f in zip(weights, moments, factors, strict=True):
            error = x @ (w - f.left @ factors[0].right).T - (0 if f.shift is None else f.shift)
            metric = np.eye(len(w))
            if gradients:
                values, vectors = np.linalg.eigh(m.gradient)
                floor = GRADIENT_FLOOR * values[-1]
                metric = (vectors * np.maximum(values, floor)) @ vectors.T
            measured += m.uses * float(np.trace(error @ metric @ error.T)) / len(x)
        expected = pytest.approx(measured, rel=1e-6, abs=1e-12 * maps[0].loss(0))
        assert [item.loss(rank) for item in maps] == [expected] * len(outs)


def test_siblings_are_truncated_as_one_stacked_layer() -> None:
    """The reference is numpy's SVD of [R₁W₁; R₂W₂; …]L, undone by inverses."""
    x, weights, moments = siblings((30, 10, 20), 300)
    root = np.linalg.cholesky(np.cov(x.T, bias=True) + 1e-9 * np.eye(40))
    outputs = [np.linalg.cholesky(m.gradient).T for m in moments]
    stacked = np.concatenate([r @ w for r, w in zip(outputs, weights, strict=True)])
    u, s, _ = np.linalg.svd(stacked @ root, full_matrices=False)
    right = u[:, :7].T @ stacked
    maps = decompose_together(weights, moments, bias=True, gradients=True)
    np.testing.assert_allclose(maps[0].losses[:7], s[:7] ** 2, rtol=1e-5)
    assert all(item.right is maps[0].right for item in maps)
    lefts = np.split(u[:, :7], [30, 40])
    for item, r, left in zip(maps, outputs, lefts, strict=True):
        expected = np.linalg.inv(r) @ left @ right
        scale = np.abs(expected).max()
        np.testing.assert_allclose(item.factors(7).product, expected, atol=1e-4 * scale)
    # In each direction, all left factors together have the norm of the right one.
    lengths = np.linalg.norm(np.concatenate([item.left for item in maps]), axis=0)
    np.testing.assert_allclose(lengths, np.linalg.norm(maps[0].right, axis=1), rtol=1e-9)


def test_siblings_with_one_weight_need_one_right_factor() -> None:
    _, (w, _), moments = siblings((20, 20), 300)
    alone = decompose(w, moments[0], bias=True, gradients=False)
    both = decompose_together([w, w], [moments[0]] * 2, bias=True, gradients=False)
    for item in both:
        np.testing.assert_allclose(item.factors(9).product, alone.factors(9).product, atol=1e-9)
    np.testing.assert_allclose(both[0].losses[:20], 2 * alone.losses, atol=1e-9 * alone.losses[0])
