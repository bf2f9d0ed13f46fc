"""Pruning while a network trains."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rmtcli
from rmtcli.errors import TrainingError, UsageError
from rmtcli.layers import Selection
from rmtcli.layouts.split import SplitLinear
from rmtcli.training import RMTPruner
from tests.training.networks import epoch, network, task

SIZES = (48, 64, 64, 4)


def sgd(model: nn.Module, lr: float = 0.05) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def pruner_of(model: nn.Module, **options: Any) -> RMTPruner:
    return RMTPruner(model, sgd(model), **{"start": 0, "keep": "rank:k=10"} | options)


def test_it_learns_and_gets_smaller() -> None:
    model, (x, y) = network(*SIZES), task()
    pruner = pruner_of(model, start=2)
    for _ in range(30):
        step = pruner.step()
        epoch(model, pruner.optimizer, x, y)
    assert step.ranks == {"fc1.weight": 10, "fc2.weight": 10}
    assert pruner.left_alone == {"fc3.weight": "output head"}
    assert step.parameters == sum(p.numel() for p in model.parameters()) < 0.5 * step.dense
    assert float((model(x).argmax(1) == y).float().mean()) > 0.9


def test_a_split_is_the_truncated_weight() -> None:
    model, (x, _) = network(*SIZES), task()
    weight = model.fc1.weight.detach().double().numpy()
    bias = model.fc1.bias
    pruner_of(model).step()
    u, s, v = np.linalg.svd(weight, full_matrices=False)
    best = (u[:, :10] * s[:10]) @ v[:10]
    assert isinstance(model.fc1, SplitLinear)
    # float32 factors of a matrix of norm about 1
    np.testing.assert_allclose(model.fc1.weight.detach().numpy(), best, atol=1e-6)
    assert model.fc1.bias is bias
    hidden = nn.functional.linear(x, model.fc1.weight, bias)
    torch.testing.assert_close(model.fc1(x), hidden, atol=1e-5, rtol=1e-5)


def test_a_split_layer_shrinks_again_through_its_product() -> None:
    model = network(*SIZES)
    pruner = pruner_of(model, schedule="linear:until=4")
    product = None
    ranks = []
    for _ in range(6):
        (product, before) = (model.fc1.weight.detach().double().numpy(), model.fc1)
        ranks.append(pruner.step().ranks["fc1.weight"])
        if isinstance(before, SplitLinear) and ranks[-1] < ranks[-2]:
            u, s, v = np.linalg.svd(product, full_matrices=False)
            best = (u[:, : ranks[-1]] * s[: ranks[-1]]) @ v[: ranks[-1]]
            np.testing.assert_allclose(model.fc1.weight.detach().numpy(), best, atol=1e-6)
    # ⌈10 + (1 − t/4) · 38⌉; past the break-even rank 27 a layer is truncated and stays whole
    assert [row["rank"] for row in pruner.log if row["layer"] == "fc1.weight"] == [
        48,
        39,
        29,
        20,
        10,
        10,
    ]
    assert ranks == [48, 48, 48, 20, 10, 10]


def test_the_edge_follows_noise_that_has_shrunk() -> None:
    """A layer that was split keeps the edge of its bulk, which moves with the bulk."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(200, 300), nn.Linear(300, 4))
    with torch.no_grad():
        model[0].weight.normal_(0, 1)
        model[0].weight.add_(20 * torch.linalg.qr(torch.randn(300, 3))[0] @ torch.randn(3, 200))
    pruner = RMTPruner(
        model, sgd(model), start=0, edge="bema", keep="edge", schedule="constant:of=0.4"
    )
    first = pruner.step().changes[0]
    assert first.spikes == 3
    assert first.action == "split"
    with torch.no_grad():
        model[0].right.weight.mul_(0.5)  # all singular values are half as large
    second = pruner.step().changes[0]
    assert second.spikes == 3
    assert second.edge == pytest.approx(first.edge / 4, rel=0.02)
    assert second.rank == first.rank  # a share of the same bulk: nothing more goes


def test_a_schedule_continues_below_the_break_even_rank() -> None:
    """A layer truncated in place keeps the edge of the bulk that it had, and its verdict."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(200, 300), nn.Linear(300, 4))
    with torch.no_grad():
        model[0].weight.normal_(0, 1)
        model[0].weight.add_(20 * torch.linalg.qr(torch.randn(300, 3))[0] @ torch.randn(3, 200))
    pruner = RMTPruner(model, sgd(model), start=0, schedule="linear:until=5")
    ranks = []
    for _ in range(6):
        ranks.append(pruner.step().changes[0].rank)
        with torch.no_grad():
            for weight in pruner.layers[0].weights:
                weight.add_(1e-3 * torch.randn_like(weight))  # what training does in between
    assert ranks == [200, 161, 122, 82, 43, 4]  # ⌈3 + (1 − t/5) · 197⌉, and no fewer than 4 classes


def test_truncate_keeps_the_layer_whole() -> None:
    model = network(*SIZES)
    step = pruner_of(model, action="truncate").step()
    assert isinstance(model.fc1, nn.Linear)
    assert torch.linalg.matrix_rank(model.fc1.weight.double(), rtol=1e-5) == 10
    assert {change.action for change in step.changes} == {"truncated"}
    assert step.parameters == step.dense


def test_halve_halves_the_dropped_singular_values() -> None:
    model = network(*SIZES)
    before = torch.linalg.svdvals(model.fc1.weight.detach().double())
    step = pruner_of(model, action="halve").step()
    after = torch.linalg.svdvals(model.fc1.weight.detach().double())
    expected = torch.cat([before[:10], before[10:] / 2])
    torch.testing.assert_close(after, expected.sort(descending=True)[0], atol=1e-6, rtol=1e-6)
    change = step.changes[0]
    dropped = float((before[10:] ** 2).sum() / 4) ** 0.5 / float((before**2).sum()) ** 0.5
    assert change.action == "halved"
    assert change.relative_error == pytest.approx(dropped, rel=1e-4)


def test_absorb_makes_the_hidden_layer_narrower() -> None:
    """Without an activation the function is that of the truncated network."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 64), nn.Linear(64, 40), nn.Linear(40, 4))
    weight, bias = model[0].weight.detach().double(), model[0].bias.detach().double()
    x, y = task()
    pruner = pruner_of(model, action="absorb", selection=Selection(include=["0.weight"]))
    epoch(model, pruner.optimizer, x, y)
    weight, bias = model[0].weight.detach().double(), model[0].bias.detach().double()
    after = model[1].weight.detach().double()
    step = pruner.step()
    assert (model[0].out_features, model[1].in_features) == (10, 10)
    assert tuple(model[1].weight.shape) == (40, 10)
    assert step.changes[0].action == "absorbed"
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    basis = u[:, :10]
    expected = (x.double() @ ((basis * s[:10]) @ v[:10]).T + bias @ basis @ basis.T) @ after.T
    outputs = model[1](model[0](x)) - model[1].bias
    torch.testing.assert_close(outputs.double(), expected, atol=1e-4, rtol=1e-4)
    epoch(model, pruner.optimizer, x, y)  # momentum has the new shapes


def test_absorb_needs_neighbours() -> None:
    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(40, 40), nn.Linear(40, 4)

    with pytest.raises(UsageError, match="follow one another"):
        pruner_of(Apart(), action="absorb")
    partly = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40), nn.LayerNorm(40), nn.Linear(40, 4))
    assert pruner_of(partly, action="absorb").left_alone == {
        "1.weight": "no layer follows that could absorb a factor",
        "3.weight": "output head",
    }
    normed = nn.Sequential(nn.Linear(40, 40), nn.LayerNorm(40), nn.Linear(40, 4))
    with pytest.raises(UsageError, match="follow one another"):
        pruner_of(normed, action="absorb")


def test_it_acts_at_the_times_that_are_given() -> None:
    model = network(*SIZES)
    pruner = pruner_of(model, start=1, every=2, stop=4, keep="rank:k=40", action="halve")
    assert [bool(pruner.step().changes) for _ in range(6)] == [
        False,
        True,
        False,
        True,
        False,
        False,
    ]


def test_hysteresis_waits_for_a_large_enough_change() -> None:
    model = network(*SIZES)
    pruner = pruner_of(model, schedule="linear:until=20", hysteresis=0.3)
    ranks = [pruner.step().ranks["fc1.weight"] for _ in range(21)]
    steps = [b / a for a, b in pairwise(ranks) if b != a]
    assert steps
    assert all(step <= 0.7 for step in steps)


def test_a_rank_is_at_least_the_number_of_classes() -> None:
    model = network(48, 64, 7)
    pruner = pruner_of(model, keep="rank:k=1")
    assert pruner.least == 7
    assert pruner.step().ranks == {"fc1.weight": 7}
    assert pruner_of(network(48, 64, 7), keep="rank:k=1", least=3).step().ranks == {"fc1.weight": 3}


def test_auto_leaves_a_layer_without_signal_alone() -> None:
    model = network(64, 96, 4)
    change = RMTPruner(model, sgd(model), start=0).step().changes[0]
    assert change.action == "kept"
    assert "no eigenvalue is above the edge" in change.reason


def test_penalties_have_the_gradient_of_the_penalised_loss() -> None:
    """The gradient of loss + l1 Σ|w| + l2 Σw², in matrices; of factors, on their own scale."""
    model, (x, y) = network(48, 64, 4), task()
    pruner = pruner_of(model, l1=1e-3, l2=1e-2, start=1)
    weights = [p for p in model.parameters() if p.ndim > 1]
    loss = nn.functional.cross_entropy(model(x), y)
    whole = loss + sum(1e-3 * w.abs().sum() + 1e-2 * (w**2).sum() for w in weights)
    expected = torch.autograd.grad(whole, list(model.parameters()), retain_graph=True)
    loss.backward()
    pruner.penalize()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
def test_a_compiled_network_keeps_training() -> None:
    model, (x, y) = network(*SIZES), task()
    compiled = torch.compile(model, backend="eager")
    pruner = pruner_of(compiled, start=1)
    for _ in range(3):
        pruner.step()
        epoch(compiled, pruner.optimizer, x, y)
    assert isinstance(model.fc1, SplitLinear)
    torch.testing.assert_close(compiled(x), model(x))


def test_gradient_scaling_and_schedulers_keep_working() -> None:
    model, (x, y) = network(*SIZES), task()
    pruner = pruner_of(model, start=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    schedule = torch.optim.lr_scheduler.StepLR(pruner.optimizer, 1, 0.5)
    losses = []
    for _ in range(4):
        pruner.step()
        for rows in torch.randperm(len(x)).split(64):
            pruner.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            scaler.scale(loss).backward()
            scaler.unscale_(pruner.optimizer)
            pruner.penalize()
            scaler.step(pruner.optimizer)
            scaler.update()
        schedule.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert pruner.optimizer.param_groups[0]["lr"] == pytest.approx(0.05 / 16)


@pytest.mark.parametrize("action", ["split", "truncate", "halve", "absorb"])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_resumed_run_is_bit_identical(action: str, kind: type) -> None:
    x, y = task()
    settings = {"lr": 0.01, "momentum": 0.9} if kind is torch.optim.SGD else {"lr": 1e-3}

    def start(seed: int) -> tuple[nn.Sequential, RMTPruner]:
        model = network(*SIZES, seed=seed)
        optimizer = kind(model.parameters(), **settings)
        options = {"edge": "bema", "keep": "edge:at_least=4", "schedule": "linear:until=6"}
        return model, RMTPruner(model, optimizer, action=action, **options)

    def go(model: nn.Sequential, pruner: RMTPruner, epochs: range) -> None:
        for i in epochs:
            torch.manual_seed(i)
            pruner.step()
            epoch(model, pruner.optimizer, x, y)

    model, pruner = start(0)
    go(model, pruner, range(4))
    file = io.BytesIO()
    parts = {"model": model, "optimizer": pruner.optimizer, "pruner": pruner}
    torch.save({name: part.state_dict() for name, part in parts.items()}, file)
    go(model, pruner, range(4, 8))

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other, resumed = start(1)
    resumed.load_state_dict(saved["pruner"])
    other.load_state_dict(saved["model"])
    resumed.optimizer.load_state_dict(saved["optimizer"])
    go(other, resumed, range(4, 8))
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    assert resumed.log == pruner.log
    if action == "split":
        assert resumed.ranks["fc1.weight"] < 28


def test_its_state_dict_is_an_ordinary_factored_checkpoint() -> None:
    """State dicts have the names that ``rmtcli prune`` writes."""
    model = network(*SIZES)
    pruner_of(model).step()
    names = set(model.state_dict())
    assert {"fc1.0.weight", "fc1.1.weight", "fc1.1.bias"} <= names
    assert "fc1.weight" not in names


def test_a_pivoted_layer_trains_and_is_left_to_itself(tmp_path: Path) -> None:
    model = network(*SIZES)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    only = Selection(include=["fc1.*"])
    options = {"keep": "rank:k=9", "layout": "pivoted", "selection": only}
    rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.pt", **options)
    model = rmtcli.load(model, tmp_path / "b.pt")
    x, y = task()
    optimizer = sgd(model)
    pruner = RMTPruner(model, optimizer, start=0, keep="rank:k=10")
    assert "densify" in pruner.left_alone["fc1.weight"]
    before = model.state_dict()["fc1.rest.weight"].clone()
    losses = [epoch(model, optimizer, x, y) for _ in range(5)]
    pruner.step()
    assert losses[-1] < losses[0]
    assert not torch.equal(model.state_dict()["fc1.rest.weight"], before)
    assert "fc2.0.weight" in model.state_dict()


def broken(model: nn.Sequential) -> None:
    with torch.no_grad():
        model.fc2.weight[0, 0] = float("nan")


def zeroed(model: nn.Sequential) -> None:
    with torch.no_grad():
        model.fc2.weight.zero_()


def taken(model: nn.Sequential) -> None:
    model.fc2 = nn.Linear(64, 64)


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (broken, "fc2.weight holds values that are NaN or infinite: training has diverged: lower"),
        (zeroed, "fc2.weight is zero everywhere: the layer has vanished: lower the penalties"),
        (taken, "fc2.weight is no longer in the network: make a new pruner"),
    ],
)
def test_a_broken_network_is_named(harm: Any, line: str) -> None:
    model = network(*SIZES)
    pruner = pruner_of(model)
    harm(model)
    with pytest.raises(TrainingError, match=line):
        pruner.step()


def test_a_loss_that_is_not_finite_is_named() -> None:
    with pytest.raises(TrainingError, match="loss is nan at time 0: training has diverged"):
        pruner_of(network(*SIZES)).step(loss=float("nan"))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"action": "melt"}, "unknown action 'melt': choose one of split, truncate, halve, absorb"),
        ({"every": 0}, "every must be at least 1, not 0"),
        ({"hysteresis": 1.0}, r"hysteresis must be in \[0, 1\)"),
        ({"schedule": "linear"}, "schedule 'linear': give an option: write linear:until="),
        ({"schedule": "constant:of=2"}, "of must be from 0 to 1, not 2.0"),
        ({"selection": Selection(include=["nothing"])}, "no linear layer to prune: fc1.weight"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError, match=line):
        pruner_of(network(*SIZES), **options)


def test_a_parameter_that_the_optimizer_does_not_hold_is_an_error() -> None:
    model = network(*SIZES)
    with pytest.raises(UsageError, match=r"fc1\.weight is not among the optimizer's parameters"):
        RMTPruner(model, torch.optim.SGD(model.fc2.parameters(), lr=0.1))


def test_a_layer_whose_class_has_a_forward_of_its_own_is_not_split() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, 0.1 * self.weight, self.bias)

    model = nn.Sequential(nn.Linear(48, 40), Scaled(40, 40), nn.Linear(40, 4))
    line = r"1\.weight is in a Scaled with a forward of its own, .* leave it out with selection="
    with pytest.raises(UsageError, match=line):
        pruner_of(model)
    assert list(pruner_of(model, action="truncate").ranks) == ["0.weight", "1.weight"]
    left_out = pruner_of(model, selection=Selection(exclude=["1.weight"]))
    assert list(left_out.ranks) == ["0.weight"]


def test_tied_and_frozen_layers_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(40, 4))
    model[1].weight = model[0].weight
    model[2].weight.requires_grad_(False)
    with pytest.raises(UsageError, match=r"0.weight: tied to another module; .*2.weight: frozen"):
        pruner_of(model)


def test_a_layer_with_two_parents_is_replaced_in_both() -> None:
    shared = nn.Linear(40, 40)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(40, 4))
    pruner_of(model).step()
    assert model[0] is model[2]
    assert isinstance(model[0], SplitLinear)


def test_the_state_of_another_network_is_refused() -> None:
    state = pruner_of(network(48, 64, 4)).state_dict()
    with pytest.raises(UsageError, match="other layers"):
        pruner_of(network(*SIZES)).load_state_dict(state)
    with pytest.raises(UsageError, match=r"fc1\.weight has another shape"):
        pruner_of(network(40, 64, 4)).load_state_dict(state)


def test_a_step_prints_one_line() -> None:
    model = network(48, 64, 4)
    pruner = pruner_of(model)
    assert str(pruner.step(loss=0.25)).strip().split("  ") == [
        "0",
        "rank fc1 10",
        "1,444 (-57.5 %)",
        f"fit {pruner.log[0]['ks_distance']:.3f}",
        "loss 0.25",
    ]
