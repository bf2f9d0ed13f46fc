"""Recurrent layers: step by step as torch computes them, calibrated, split, and joined again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import rmtcli
from rmtcli.calibration import decompose
from rmtcli.calibration.collect import collect
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import CheckpointError, UsageError
from rmtcli.keep import Untouched
from rmtcli.layouts.module import float64_of
from rmtcli.layouts.recurrent import Recurrent, in_steps, put_in_steps
from rmtcli.planning import Budget

KINDS: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (nn.LSTM, {}),
    (nn.LSTM, {"num_layers": 2, "bidirectional": True, "proj_size": 3, "batch_first": True}),
    (nn.GRU, {"num_layers": 2, "bias": False, "batch_first": True}),
    (nn.GRU, {"bidirectional": True}),
    (nn.RNN, {"num_layers": 2, "bidirectional": True}),
    (nn.RNN, {"nonlinearity": "relu"}),
]
kinds = pytest.mark.parametrize(("kind", "options"), KINDS)
#: Sequences in no order of their lengths.
SEQUENCES = [torch.randn(n, 5, generator=torch.Generator().manual_seed(n)) for n in (3, 7, 1, 4)]


def made(kind: type[nn.Module], options: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return kind(5, 6, **options).double().eval()


def states(layer: Any, batch: int) -> Any:
    """A random state before the first step."""
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    h = torch.randn(count, batch, layer.proj_size or 6, dtype=torch.float64)
    lstm = isinstance(layer, nn.LSTM)
    return (h, torch.randn(count, batch, 6, dtype=torch.float64)) if lstm else h


def close(mine: Any, torchs: Any) -> None:
    torch.testing.assert_close(mine, torchs, rtol=1e-12, atol=1e-14)


@kinds
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "state"])
def test_steps_compute_what_torch_computes(
    kind: type[nn.Module], options: dict[str, Any], given: bool
) -> None:
    layer = made(kind, options)
    steps = in_steps(layer)
    assert isinstance(steps, Recurrent)
    x = torch.randn(4, 7, 5, dtype=torch.float64)
    batch = 4 if layer.batch_first else 7
    state = states(layer, batch) if given else None
    close(steps(x, state), layer(x, state))
    one = None
    if given:
        one = tuple(s[:, 0] for s in state) if isinstance(state, tuple) else state[:, 0]
    close(steps(x[0], one), layer(x[0], one))
    packed = pack_sequence([s.double() for s in SEQUENCES], enforce_sorted=False)
    state = states(layer, 4) if given else None
    (mine, last), (torchs, torchs_last) = steps(packed, state), layer(packed, state)
    close(mine.data, torchs.data)
    close(last, torchs_last)
    assert torch.equal(mine.batch_sizes, torchs.batch_sizes)
    assert torch.equal(mine.unsorted_indices, torchs.unsorted_indices)


@kinds
def test_steps_have_the_names_of_torch(kind: type[nn.Module], options: dict[str, Any]) -> None:
    layer, other = made(kind, options), made(kind, options)
    steps = in_steps(layer)
    state = steps.state_dict()
    assert state.keys() == layer.state_dict().keys()
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    steps.load_state_dict(other.state_dict())
    other.load_state_dict(steps.state_dict())
    x = torch.randn(4, 7, 5, dtype=torch.float64)
    close(steps(x), other(x))


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_a_cell_steps_as_torchs(kind: type[nn.Module]) -> None:
    cell = made(kind, {})
    steps, x = in_steps(cell), torch.randn(4, 5, dtype=torch.float64)
    close(steps(x), cell(x))
    close(steps(x[0]), cell(x[0]))
    close(steps(x, cell(x)), cell(x, cell(x)))


def test_dropout_is_between_the_layers_and_in_training_only() -> None:
    layer = made(nn.LSTM, {"num_layers": 2, "dropout": 0.5})
    steps, x = in_steps(layer), torch.randn(4, 7, 5, dtype=torch.float64)
    close(steps(x), layer(x))
    steps.train()
    first, second = (steps(x)[1][0] for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert not torch.allclose(first[1], second[1])


class Speaker(nn.Module):
    """A small encoder of speech: recurrent layers, then a linear one."""

    def __init__(self, kind: type[nn.Module] = nn.LSTM) -> None:
        super().__init__()
        self.rnn = kind(8, 40, num_layers=2, batch_first=True)
        self.linear, self.head = nn.Linear(40, 40), nn.Linear(40, 6)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.rnn(x)
        return self.head(torch.relu(self.linear(outputs[:, -1])))


def gru() -> nn.Module:
    return Speaker(nn.GRU)


def rnn() -> nn.Module:
    return Speaker(nn.RNN)


FACTORIES = {"Speaker": Speaker, "gru": gru, "rnn": rnn}


@pytest.mark.parametrize("factory", FACTORIES)
def test_the_predicted_loss_of_every_matrix_is_the_measured_one(factory: str) -> None:
    torch.manual_seed(0)
    model = put_in_steps(FACTORIES[factory]().double().eval())
    x = np.random.default_rng(0).standard_normal((30, 9, 8))
    names = [f"rnn.weight_{kind}_l{layer}" for layer in (0, 1) for kind in ("ih", "hh")]
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
    slopes: dict[str, list[np.ndarray]] = {name: [] for name in names}

    def watch(name: str) -> Any:
        def note(gradient: Tensor) -> None:
            slopes[name].append(gradient.flatten(0, -2).numpy())

        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            rows[name].append(args[0].detach().flatten(0, -2).numpy())
            if not output.requires_grad:
                output = output.detach().requires_grad_(True).clone()
            output.register_hook(note)
            return output

        return hook

    moments = collect(model, x, names, lambda network, inputs: network(inputs), batch=7)
    for name in names:
        model.get_submodule(name).register_forward_hook(watch(name))
    collect(model, x, names, lambda network, inputs: network(inputs), batch=7)
    for name in names:
        seen, layer = np.concatenate(rows[name]), model.get_submodule(name)
        assert moments[name].uses == len(seen) / 30 == 9
        g = np.concatenate(slopes[name])
        np.testing.assert_allclose(moments[name].gradient, g.T @ g / len(g), atol=1e-15)
        weight = float64_of(layer.weight)  # type: ignore[arg-type]
        fit = decompose(weight, moments[name], bias=True, gradients=False)
        factors = fit.factors(5)
        error = seen @ (factors.product - weight).T + factors.shift
        assert fit.loss(5) == pytest.approx(float((error**2).sum()) / 30, rel=1e-6)


@pytest.fixture(scope="module", params=FACTORIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network that was trained a little, and its data."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 6, 360)
    pattern = rng.standard_normal((6, 9, 8))
    x = (pattern[y] + 0.5 * rng.standard_normal((360, 9, 8))).astype(np.float32)
    model = FACTORIES[request.param]()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        optimizer.step()
    torch.save(model.state_dict(), folder / "a.pt")
    np.savez(folder / "d.npz", train_inputs=x[:300], inputs=x[300:], targets=y[300:])
    return folder


def prune(folder: Path, output: Path, **options: Any) -> Any:
    name = next(name for name in FACTORIES if folder.name.startswith(name))
    return rmtcli.prune(
        folder / "a.pt",
        output,
        selection=rmtcli.Selection(recurrent=True),
        evaluation=rmtcli.Evaluation(
            folder / "d.npz", model=f"tests.layouts.test_recurrent:{name}"
        ),
        **options,
    )


def test_a_recurrent_network_is_split_healed_loaded_and_joined(
    folder: Path, tmp_path: Path
) -> None:
    calibration = rmtcli.Calibration(sequential=True, heal=2)
    report = prune(folder, tmp_path / "b.pt", budget=Budget("50%"), calibration=calibration)
    assert {plan.layer.name for plan in report.pruned} >= {"rnn.weight_hh_l0", "rnn.weight_ih_l1"}
    assert all(0 < plan.predicted_loss < 1 for plan in report.pruned)
    small, whole = ((folder if n == "a" else tmp_path) / f"{n}.pt" for n in "ba")
    assert report.output.parameters <= 0.5 * report.source.parameters
    assert small.stat().st_size < 0.7 * whole.stat().st_size
    assert report.comparison.after.accuracy >= report.comparison.before.accuracy - 10
    state = torch.load(small)
    rank = {plan.layer.name: plan.rank for plan in report.pruned}["rnn.weight_hh_l0"]
    assert state["rnn.weight_hh_l0.0.weight"].shape == (rank, 40)
    assert state["rnn.weight_hh_l0.1.bias"].shape == state["rnn.weight_hh_l0.1.weight"].shape[:1]
    factory = next(made for name, made in FACTORIES.items() if folder.name.startswith(name))
    loaded = rmtcli.load(factory(), small).eval()
    assert isinstance(loaded.rnn, Recurrent)
    rmtcli.densify(small, tmp_path / "c.pt")
    assert list(torch.load(tmp_path / "c.pt")) == list(torch.load(whole))
    dense = rmtcli.load(factory(), tmp_path / "c.pt").eval()
    with np.load(folder / "d.npz") as data:
        x = torch.from_numpy(data["inputs"])
        torch.testing.assert_close(loaded(x), dense(x), rtol=1e-4, atol=1e-5)
        accuracy = 100 * float((loaded(x).argmax(1).numpy() == data["targets"]).mean())
    assert accuracy == pytest.approx(report.comparison.after.accuracy)
    assert set(open_checkpoint(small).manifest.factored) == {  # type: ignore[union-attr]
        plan.layer.module for plan in report.pruned
    }
    lines = [text for label, text in rmtcli.info(small).lines if label == "layer"]
    assert len(lines) == len(report.pruned)
    assert all(text.endswith("split in two") for text in lines)
    changes = rmtcli.diff(whole, small, selection=rmtcli.Selection(recurrent=True))
    assert max(layer.change for layer in changes.layers if "weight_hh_l0" in layer.name) > 0.1


@pytest.mark.parametrize("layout", ["factored", "pivoted"])
def test_a_file_is_loaded_and_joined_with_and_without_its_record(
    folder: Path, tmp_path: Path, layout: str
) -> None:
    report = prune(folder, tmp_path / "b.pt", keep="rank:k=7", layout=layout)
    assert {plan.rank for plan in report.pruned} == {7}
    torch.save(dict(torch.load(tmp_path / "b.pt")), tmp_path / "plain.pt")
    for name in ("b", "plain"):
        rmtcli.densify(tmp_path / f"{name}.pt", tmp_path / f"{name}.dense.pt")
    first, second = (torch.load(tmp_path / f"{name}.dense.pt") for name in ("b", "plain"))
    assert first.keys() == second.keys() == torch.load(folder / "a.pt").keys()
    assert torch.linalg.matrix_rank(first["rnn.weight_ih_l1"].double(), rtol=1e-5) == 7
    factory = next(made for name, made in FACTORIES.items() if folder.name.startswith(name))
    x = torch.randn(5, 9, 8)
    whole, *split = (
        rmtcli.load(factory(), tmp_path / f"{name}.pt").eval()(x)
        for name in ("b.dense", "b", "plain")
    )
    for outputs in split:
        torch.testing.assert_close(outputs, whole, rtol=1e-4, atol=1e-5)


def test_gates_are_calibrated_one_by_one_in_the_dense_layout(folder: Path, tmp_path: Path) -> None:
    calibration = rmtcli.Calibration(folder / "d.npz", stats=tmp_path / "s.safetensors")
    options = {"keep": "rank:k=20", "layout": "dense"}
    report = prune(folder, tmp_path / "b.pt", calibration=calibration, **options)
    pruned = {plan.layer.name: plan for plan in report.pruned}
    gates = [name for name in pruned if name.startswith("rnn.weight_hh_l1")]
    assert len(gates) in (1, 3, 4)
    assert all(0 < pruned[name].predicted_loss < 1 for name in gates)
    assert report.output.parameters == report.source.parameters
    again = prune(
        folder,
        tmp_path / "c.pt",
        calibration=rmtcli.Calibration(stats=tmp_path / "s.safetensors"),
        **options,
    )
    assert (tmp_path / "b.pt").read_bytes() == (tmp_path / "c.pt").read_bytes()
    assert len(again.pruned) == len(report.pruned)
    heal = rmtcli.Calibration(folder / "d.npz", heal=1)
    with pytest.raises(UsageError, match='recurrent layers have in layout="factored" only'):
        prune(folder, tmp_path / "d.pt", calibration=heal, **options)


class Own(nn.LSTM):
    """A recurrent layer with a forward of its own."""

    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return super().forward(x * 2)


def own() -> nn.Module:
    return Speaker(Own)


def test_a_layer_that_computes_something_else_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(own().state_dict(), tmp_path / "a.pt")
    x = np.random.default_rng(0).standard_normal((20, 9, 8)).astype(np.float32)
    np.savez(tmp_path / "d.npz", inputs=x)
    report = rmtcli.prune(
        tmp_path / "a.pt",
        keep="rank:k=5",
        selection=rmtcli.Selection(recurrent=True),
        evaluation=rmtcli.Evaluation(model="tests.layouts.test_recurrent:own"),
        calibration=rmtcli.Calibration(tmp_path / "d.npz"),
    )
    fates = {plan.layer.name: plan.untouched for plan in report.layers}
    assert fates["rnn.weight_hh_l0"] is Untouched.NOT_CALIBRATED
    assert fates["linear.weight"] is None
    chosen = rmtcli.Selection(recurrent=True)
    rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.pt", keep="rank:k=5", selection=chosen)
    with pytest.raises(CheckpointError, match="'rnn' is a Own with a forward of its own"):
        rmtcli.load(own(), tmp_path / "b.pt")
