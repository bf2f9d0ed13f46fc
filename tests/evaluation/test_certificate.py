from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rmtcli.evaluation.certificate import LIPSCHITZ, certified
from rmtcli.evaluation.confidence import confidence, kullback_leibler

X = np.random.default_rng(0).standard_normal((200, 12))


def network(activation: type[nn.Module], seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Linear(12, 20), activation(), nn.Linear(20, 15), activation(), nn.Linear(15, 4)]
    return nn.Sequential(nn.Flatten(), *layers, nn.Dropout()).double().eval()


def changed(model: nn.Sequential, size: float, seed: int) -> nn.Sequential:
    """The network with noise on every parameter."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter += size * noise
    return other


@given(st.sampled_from(list(LIPSCHITZ)), st.floats(-4, 0), st.integers(0, 1000))
def test_certified_samples_keep_their_class(
    activation: type[nn.Module], log_size: float, seed: int
) -> None:
    model = network(activation, seed)
    other = changed(model, 10**log_size, seed)
    x = torch.from_numpy(X)
    for i in range(0, 200, 10):
        # One sample at a time, so that a share of 100 means that this sample is certified.
        certificate = certified(model, other, X[i : i + 1])
        assert certificate is not None
        assert certificate.propagated <= certificate.hidden
        if certificate.hidden == 100:
            assert model(x[i : i + 1]).argmax() == other(x[i : i + 1]).argmax()


def test_no_change_certifies_all_samples_and_a_small_change_most() -> None:
    model = network(nn.ReLU)
    same = certified(model, model, X)
    assert same is not None
    assert (same.propagated, same.hidden) == (100, 100)
    shares = [certified(model, changed(model, size, 1), X) for size in (1e-5, 1e-3, 1e-2)]
    hidden = [share.hidden for share in shares if share is not None]
    assert hidden == sorted(hidden, reverse=True)
    assert hidden[0] > 95
    assert shares[0] is not None
    assert shares[0].propagated > 90


def test_the_lipschitz_constants_bound_the_activations() -> None:
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    for activation, constant in LIPSCHITZ.items():
        y = activation()(x)
        steepest = float(((y[1:] - y[:-1]) / (x[1:] - x[:-1])).abs().max())
        assert 0.95 * constant <= steepest <= constant * (1 + 1e-9)


@pytest.mark.parametrize(
    "extra", [nn.LayerNorm(4), nn.Softmax(1), nn.Sequential(nn.BatchNorm1d(4)), nn.ReLU()]
)
def test_other_networks_have_no_certificate(extra: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(12, 4), extra).double().eval()
    assert certified(model, model, X) is None


def test_divergence_and_confidence_equal_those_of_scipy() -> None:
    from scipy.special import softmax
    from scipy.stats import entropy

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 50, 6)) * 30
    expected = entropy(softmax(a, 1), softmax(b, 1), axis=1)
    finite = np.isfinite(expected)
    np.testing.assert_allclose(
        [kullback_leibler(x[None], y[None]) for x, y in zip(a[finite], b[finite], strict=True)],
        expected[finite],
        rtol=1e-9,
    )
    assert kullback_leibler(a, a) == 0
    classes = rng.integers(0, 6, 50)
    margins = [row[c] - max(np.delete(row, c)) for row, c in zip(a, classes, strict=True)]
    np.testing.assert_allclose(confidence(a, classes), margins)
