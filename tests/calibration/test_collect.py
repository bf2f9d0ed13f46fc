"""Moments that are collected through hooks, compared with explicit sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rmtcli.calibration import Moments
from rmtcli.calibration.collect import collect
from rmtcli.calibration.moments import merge
from rmtcli.calibration.starts import identity_root
from rmtcli.calibration.watch import Watch
from rmtcli.errors import EvaluationError


def run(model: nn.Module, inputs: Tensor) -> Tensor:
    outputs = model(
        inputs.to(next(model.parameters()).dtype) if inputs.is_floating_point() else inputs
    )
    assert isinstance(outputs, Tensor)
    return outputs


X = np.random.default_rng(0).standard_normal((37, 6)).astype(np.float32)


class Siblings(nn.Module):
    """q and k read one tensor; twice is used on two tensors, of which one is q's as well."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.twice = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.q(x)) + self.k(x)
        return self.head(self.twice(torch.tanh(self.twice(x)) + y))


def model(cls: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return cls().double().eval()


def naive(net: Siblings, x: np.ndarray) -> dict[str, np.ndarray]:
    """Return every input of every layer, one per row."""
    t = torch.from_numpy(x).double()
    with torch.no_grad():
        y = torch.relu(net.q(t)) + net.k(t)
        second = torch.tanh(net.twice(t)) + y
        last = net.twice(second)
    return {
        k: v.numpy()
        for k, v in {"q": t, "k": t, "twice": torch.cat([t, second]), "head": last}.items()
    }


@pytest.mark.parametrize("batch", [1, 7, 37, 100])
def test_moments_are_those_of_the_rows_that_each_layer_saw(batch: int) -> None:
    net = model(Siblings)
    collected = collect(net, X, ["q", "k", "twice", "head"], run, batch=batch)
    for name, rows in naive(net, X).items():  # type: ignore[arg-type]
        assert collected[name].rows == len(rows)
        assert collected[name].uses == (2 if name == "twice" else 1)
        np.testing.assert_allclose(collected[name].mean, rows.mean(0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(collected[name].second, rows.T @ rows / len(rows), atol=1e-12)


def test_gradients_of_the_logits_have_the_fisher_matrix() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4)).double()
    x = np.repeat(X[:4], 3000, axis=0)
    collected = collect(net, x, ["0"], run)["0"].gradient
    p = net(torch.from_numpy(X[:4]).double()).softmax(1).detach()
    expected = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]).mean(0).numpy()
    # 12,000 draws; a product of two normals has a deviation of about its scale.
    assert collected is not None
    np.testing.assert_allclose(
        collected, expected, atol=5 * np.abs(expected).max() / np.sqrt(12_000)
    )


def test_gradients_flow_back_through_the_network() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)).double()
    collected = collect(net, np.repeat(X, 50, axis=0), ["0", "1"], run)
    w = net[1].weight.detach().numpy()
    # Without a nonlinearity between them, g₀ = W₁ᵀ g₁ draw by draw.
    np.testing.assert_allclose(
        collected["0"].gradient, w.T @ collected["1"].gradient @ w, atol=1e-12
    )


def test_hooks_and_gradient_flags_are_restored() -> None:
    net = model(Siblings)
    net.q.bias.requires_grad_(False)  # type: ignore[union-attr]
    asked = [parameter.requires_grad for parameter in net.parameters()]
    collect(net, X, ["q", "k"], run)
    assert [parameter.requires_grad for parameter in net.parameters()] == asked
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())
    # The same draws give the same moments.
    a, b = (collect(net, X, ["q"], run)["q"].gradient for _ in range(2))
    np.testing.assert_array_equal(a, b)


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(20, 8), nn.LSTM(8, 12, batch_first=True)
        self.fc, self.unused, self.head = nn.Linear(12, 12), nn.Linear(3, 3), nn.Linear(12, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.relu(self.fc(self.lstm(self.embed(tokens))[0])).mean(1))


def test_positions_are_rows_and_unreached_layers_are_missing() -> None:
    tokens = np.random.default_rng(0).integers(0, 20, (9, 5))
    collected = collect(model(Lstm), tokens, ["fc", "head", "unused"], run, batch=4)
    assert set(collected) == {"fc", "head"}
    assert (collected["fc"].rows, collected["fc"].uses, collected["head"].uses) == (45, 5, 1)
    assert collected["fc"].gradient is not None


def test_values_that_change_in_place_are_seen_in_time_or_refused() -> None:
    class InPlace(nn.Module):
        late = False

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            y.relu_()
            z = self.b(y)
            z += y
            if self.late:
                y += 1
            return self.head(z)

    net: InPlace = model(InPlace)  # type: ignore[assignment]
    collected = collect(net, X, ["a", "b", "head"], run)
    with torch.no_grad():
        first = torch.relu(net.a(torch.from_numpy(X).double()))
        last = first + net.b(first)
    for name, rows in (("b", first.numpy()), ("head", last.numpy())):
        np.testing.assert_allclose(collected[name].second, rows.T @ rows / len(X), atol=1e-12)
        assert collected[name].gradient is not None
    net.late = True
    with pytest.raises(EvaluationError, match="changes the input of 'b' in place"):
        collect(net, X, ["a", "b", "head"], run, draws=0)


def test_without_gradients_nothing_runs_backward() -> None:
    collected = collect(model(Siblings), X, ["q"], run, draws=0)
    assert collected["q"].gradient is None


def test_merged_moments_are_those_of_all_rows() -> None:
    parts = [X[:10].astype("f8"), X[10:].astype("f8")]
    moments = [Moments(len(x), 37, x.mean(0), x.T @ x / len(x), x.T @ x) for x in parts]
    whole = merge(moments)
    assert whole.rows == 37
    np.testing.assert_allclose(whole.mean, X.mean(0, dtype="f8"))
    np.testing.assert_allclose(whole.second, X.T.astype("f8") @ X / 37, rtol=1e-6)


def test_more_backward_passes_bring_the_gradients_moment_nearer() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(6, 5))
    x = np.random.default_rng(0).standard_normal((32, 6)).astype(np.float32)
    errors = [
        float(np.linalg.norm(moment - np.eye(5)))
        for draws in (1, 16)
        if (moment := collect(net, x, ["0"], run, start=identity_root, draws=draws)["0"].gradient)
        is not None
    ]
    assert len(errors) == 2
    assert errors[1] < 0.6 * errors[0]


def test_moments_know_how_many_independent_samples_they_are_worth() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(6, 5))
    x = np.random.default_rng(0).standard_normal((1600, 6)).astype(np.float32)
    moments = collect(net, x, ["0"], run, start=identity_root, batch=50)["0"]
    assert moments.independent == pytest.approx(1600, rel=0.4)
    assert moments.independent_gradients == pytest.approx(1600, rel=0.4)


def test_sums_in_float32_are_those_in_float64_up_to_rounding() -> None:
    names = ["q", "k", "twice", "head"]
    exact, rounded = (
        collect(model(Siblings).float(), X, names, run, batch=7, watch=Watch(dtype=dtype))
        for dtype in (torch.float64, torch.float32)
    )
    for name in names:
        for field in ("second", "gradient"):
            a, b = getattr(exact[name], field), getattr(rounded[name], field)
            assert b.dtype == np.float32
            np.testing.assert_allclose(b, a, atol=3e-6 * np.abs(a).max())
        assert rounded[name].independent == pytest.approx(exact[name].independent, rel=1e-3)
