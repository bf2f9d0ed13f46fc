"""Convolutions are calibrated like linear layers that read patches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rmtcli
from rmtcli.calibration import decompose
from rmtcli.calibration.collect import collect
from rmtcli.calibration.measure import GRADIENT_FLOOR
from rmtcli.calibration.starts import identity_root
from rmtcli.errors import UsageError
from rmtcli.keep import Untouched
from rmtcli.layouts.module import float64_of
from rmtcli.layouts.split import SplitConvolution
from rmtcli.planning import Budget
from rmtcli.running.refine import no_kernels

KINDS: list[tuple[type[nn.Module], tuple[int, ...], dict[str, Any]]] = [
    (nn.Conv1d, (17,), {"kernel_size": 5, "stride": 3, "padding": 2, "padding_mode": "circular"}),
    (nn.Conv1d, (17,), {"kernel_size": 4, "padding": "same", "dilation": 2, "bias": False}),
    (nn.Conv2d, (9, 7), {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)}),
    (nn.Conv2d, (9, 7), {"kernel_size": 3, "padding": 2, "padding_mode": "reflect"}),
    (nn.Conv3d, (5, 4, 6), {"kernel_size": 2, "dilation": (1, 2, 1)}),
]


@pytest.mark.parametrize("gradients", [False, True], ids=["one-sided", "two-sided"])
@pytest.mark.parametrize(("kind", "sides", "options"), KINDS)
def test_the_predicted_loss_is_the_measured_one(
    kind: type[nn.Module], sides: tuple[int, ...], options: dict[str, Any], gradients: bool
) -> None:
    torch.manual_seed(0)
    layer: Any = kind(3, 10, **options)
    model = nn.Sequential(layer, nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(4)).double()
    x = torch.randn(23, 3, *sides, dtype=torch.float64)
    model(x)
    run = lambda network, inputs: network(inputs)  # noqa: E731
    moments = collect(model, x.numpy(), ["0"], run, batch=5, draws=int(gradients))["0"]
    dense = layer(x)
    assert moments.uses == dense[0, 0].numel()
    weight = float64_of(layer.weight).reshape(10, -1)
    fit = decompose(weight, moments, bias=layer.bias is not None, gradients=gradients)
    factors = fit.factors(4)
    split = SplitConvolution(layer, 4, bias=layer.bias is not None)
    state = {"0.weight": torch.from_numpy(factors.right).reshape(4, *layer.weight.shape[1:])}
    state["1.weight"] = torch.from_numpy(factors.left).reshape(10, 4, *(1 for _ in sides))
    if factors.shift is not None:
        state["1.bias"] = layer.bias.detach() + torch.from_numpy(factors.shift)
    split.load_state_dict(state)
    error = (split(x) - dense).detach().flatten(2).movedim(1, 2).flatten(0, 1).numpy()
    if gradients:
        values, vectors = np.linalg.eigh(moments.gradient)
        values = np.maximum(values, GRADIENT_FLOOR * values[-1])
        error = error @ vectors * np.sqrt(values)
    assert fit.loss(4) == pytest.approx(float((error**2).sum()) / len(x), rel=1e-6)
    assert 0 < fit.loss(4) < fit.loss(0)


def test_the_gradients_are_those_of_every_position() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 5, 3, padding=1)
    model = nn.Sequential(layer, nn.Tanh(), nn.AvgPool2d(4), nn.Flatten()).double()
    outputs = {}
    layer.register_forward_hook(lambda module, args, output: outputs.update(last=output))
    model[1].register_full_backward_hook(lambda module, own, past: outputs.update(gradient=own[0]))
    x = np.random.default_rng(0).standard_normal((6, 2, 4, 4))
    run = lambda network, inputs: network(inputs)  # noqa: E731
    moments = collect(model, x, ["0"], run, start=identity_root)["0"]
    g = outputs["gradient"].movedim(1, -1).flatten(0, -2)
    z = (
        (outputs["last"].detach() - layer.bias.detach()[:, None, None])
        .movedim(1, -1)
        .flatten(0, -2)
    )
    assert moments.rows == len(g) == 96
    np.testing.assert_allclose(moments.gradient, g.T @ g / len(g), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(moments.second, z.T @ z / len(z), rtol=1e-10, atol=1e-14)


class Small(nn.Module):
    """Convolutions of which one is in groups and one is not used, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 40, 8, stride=2)
        self.second = nn.Conv1d(40, 48, 3, padding=1)
        self.grouped = nn.Conv1d(48, 48, 3, groups=4)
        self.idle = nn.Conv1d(48, 48, 3)
        self.fc, self.head = nn.Linear(48, 48), nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.second(torch.relu_(self.first(x[:, None]))))
        x = torch.relu_(self.grouped(x)).mean(2)
        return self.head(x + torch.relu(self.fc(x)))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the network, trained a little, and its data."""
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    model = Small()
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 400)
    x = np.sin(np.arange(40) * (0.3 + 0.3 * y[:, None]) + rng.uniform(0, 6, (400, 1)))
    x = (x + 0.3 * rng.standard_normal(x.shape)).astype(np.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        optimizer.step()
    torch.save(model.state_dict(), folder / "a.pt")
    np.savez(folder / "d.npz", train_inputs=x, inputs=x, targets=y)
    return folder


def prune(folder: Path, output: Path, **options: Any) -> Any:
    return rmtcli.prune(
        folder / "a.pt",
        output,
        selection=rmtcli.Selection(convolutions=True),
        evaluation=rmtcli.Evaluation(
            folder / "d.npz", model="tests.calibration.test_convolutions:Small"
        ),
        **options,
    )


def test_a_network_with_convolutions_is_calibrated_healed_and_loaded(
    small: Path, tmp_path: Path
) -> None:
    calibration = rmtcli.Calibration(
        small / "d.npz", stats=tmp_path / "s.safetensors", sequential=True, heal=2
    )
    report = prune(small, tmp_path / "b.pt", budget=Budget("60%"), calibration=calibration)
    fates = {plan.layer.name: plan.untouched for plan in report.layers}
    assert fates["grouped.weight"] is Untouched.GROUPS
    assert fates["idle.weight"] is Untouched.NO_DATA
    pruned = {plan.layer.name: plan for plan in report.pruned}
    assert {"second.weight"} <= pruned.keys() <= {"first.weight", "second.weight", "fc.weight"}
    assert 0 < pruned["second.weight"].predicted_loss < 1
    assert no_kernels() in report.notes
    assert report.comparison.after.accuracy >= report.comparison.before.accuracy - 3
    loaded = rmtcli.load(Small(), tmp_path / "b.pt").eval()
    with np.load(small / "d.npz") as data:
        rows = loaded(torch.from_numpy(data["inputs"])).argmax(1).numpy()
        accuracy = 100 * float((rows == data["targets"]).mean())
    assert accuracy == pytest.approx(report.comparison.after.accuracy, abs=0.3)
    # Statistics tell the same: of what was seen, and why some was not.
    again = prune(
        small,
        tmp_path / "c.pt",
        budget=Budget("60%"),
        calibration=rmtcli.Calibration(stats=tmp_path / "s.safetensors"),
    )
    assert {plan.layer.name: plan.rank for plan in again.layers} == {
        plan.layer.name: plan.rank for plan in report.layers
    }
    assert {plan.layer.name: plan.untouched for plan in again.layers} == fates


def test_multiply_adds_are_counted_at_every_position(small: Path, tmp_path: Path) -> None:
    calibration = rmtcli.Calibration(small / "d.npz")
    report = prune(small, tmp_path / "b.pt", budget=Budget("50%", "macs"), calibration=calibration)
    positions = {"first.weight": 17, "second.weight": 17}
    costs = [
        [macs * positions.get(plan.layer.name, 1) for macs in (plan.layer.size, plan.macs)]
        for plan in report.layers
    ]
    before, after = (sum(column) for column in zip(*costs, strict=True))
    assert 0.4 * before < after <= 0.5 * before
    with pytest.raises(UsageError, match=r"second\.weight is a convolution, whose multiply-adds"):
        rmtcli.prune(
            small / "a.pt",
            budget=Budget("50%", "macs"),
            selection=rmtcli.Selection(convolutions=True),
        )
