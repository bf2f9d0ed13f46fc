"""An optimizer's state is carried over to the factors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from rmtcli.layers import Selection
from rmtcli.training.carry import Heir, carry
from rmtcli.training.find import layers_in
from rmtcli.training.layers import TrainedLayer
from tests.training.networks import epoch, network, task

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
}


def trained(
    make: Callable[..., torch.optim.Optimizer],
) -> tuple[TrainedLayer, torch.optim.Optimizer]:
    model = network(48, 64, 4)
    optimizer = make(model.parameters())
    epoch(model, optimizer, *task())
    (layer,), _ = layers_in(model, Selection())
    return layer, optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_of_a_split_weight_is_mapped_to_its_factors(name: str) -> None:
    """Momentum M of W = A·B is M·Bᵀ for A and Aᵀ·M for B; squares are mapped by squared factors."""
    layer, optimizer = trained(OPTIMIZERS[name])
    old = optimizer.state[layer.weights[0]]
    before = {k: v.clone() for k, v in old.items() if isinstance(v, torch.Tensor)}
    layer.replace(layer.decompose().factors(10), optimizer)
    b, a = layer.weights
    for key, value in before.items():
        if value.ndim == 0:
            assert optimizer.state[a][key] == value
            continue
        square = "sq" in key or key in ("square_avg", "sum")
        left, right = (layer.scale * t.detach() for t in (a, b))
        left, right = (left**2, right**2) if square else (left, right)
        torch.testing.assert_close(optimizer.state[a][key], value @ right.T)
        torch.testing.assert_close(optimizer.state[b][key], left.T @ value)
        if square:
            assert (optimizer.state[a][key] >= 0).all()


def test_state_of_factors_is_kept_when_their_rank_falls() -> None:
    """Momentum is linear in the gradients: shrinking later or at once gives the same state."""
    layer, optimizer = trained(OPTIMIZERS["sgd"])
    momentum = optimizer.state[layer.weights[0]]["momentum_buffer"].double()
    layer.replace(layer.decompose().factors(20), optimizer)
    first = layer.scale
    layer.replace(layer.decompose().factors(6), optimizer)
    b, a = layer.weights
    assert layer.scale == pytest.approx(first, rel=1e-5)  # the largest value has not changed
    for parameter, expected in (
        (a, momentum @ b.detach().double().T),
        (b, a.detach().double().T @ momentum),
    ):
        state = optimizer.state[parameter]["momentum_buffer"].double()
        # Tolerance: float32 factors, and a basis of 20 directions whose condition is about 10.
        torch.testing.assert_close(state, layer.scale * expected, rtol=1e-3, atol=1e-5)


def test_a_step_on_the_factors_is_no_longer_than_on_the_weight() -> None:
    model = network(48, 64, 4)
    with torch.no_grad():
        model.fc1.weight.mul_(30)  # large singular values are where an unscaled step explodes
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    (layer,), _ = layers_in(model, Selection())
    x, y = task()

    def moved() -> torch.Tensor:
        weight = layer.module.weight.detach().clone()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        return layer.module.weight.detach() - weight

    dense = moved()
    layer.replace(layer.decompose().factors(27), optimizer)
    split = moved()
    assert 0.1 * dense.norm() < split.norm() <= 1.05 * dense.norm()


def test_pending_gradients_are_carried_over() -> None:
    layer, optimizer = trained(OPTIMIZERS["sgd"])
    gradient = torch.randn(layer.shape)
    layer.weights[0].grad = gradient.clone()
    layer.replace(layer.decompose().factors(5), optimizer)
    b, a = layer.weights
    torch.testing.assert_close(a.grad, layer.scale * gradient @ b.detach().T)
    torch.testing.assert_close(b.grad, layer.scale * a.detach().T @ gradient)


def test_state_of_an_unknown_kind_is_reset_with_a_warning() -> None:
    weight = nn.Parameter(torch.randn(4, 3))
    optimizer = torch.optim.Adamax([weight], lr=1e-3)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    heir = nn.Parameter(torch.randn(4, 2))
    with pytest.warns(UserWarning, match="Adamax keeps exp_inf"):
        carry(optimizer, weight, [Heir(heir, right=torch.randn(3, 2))])
    assert heir not in optimizer.state
    assert optimizer.param_groups[0]["params"][0] is heir


def test_parameters_keep_their_position_in_the_groups() -> None:
    first, second, third = (nn.Parameter(torch.zeros(2, 2)) for _ in range(3))
    optimizer = torch.optim.SGD([{"params": [first, second]}, {"params": [third], "lr": 0.5}], 0.1)
    a, b = nn.Parameter(torch.zeros(2, 1)), nn.Parameter(torch.zeros(1, 2))
    carry(optimizer, second, [Heir(b), Heir(a)])
    assert [len(group["params"]) for group in optimizer.param_groups] == [3, 1]
    assert optimizer.param_groups[0]["params"][1] is b
    assert np.isclose(optimizer.param_groups[1]["lr"], 0.5)
