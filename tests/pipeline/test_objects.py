"""Networks and inputs in memory give what files give, and nothing of the user's is changed."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import rmtcli
from rmtcli import Calibration, Evaluation, Selection
from rmtcli.calibration import given_inputs
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import CheckpointError, EvaluationError, LayerError, RmtcliError, UsageError
from rmtcli.planning import Budget


class Residual(nn.Module):
    """A block with a skip connection and a BatchNorm between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(20, 64), nn.Linear(64, 10)
        self.wide, self.norm, self.back = nn.Linear(64, 96), nn.BatchNorm1d(96), nn.Linear(96, 64)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x).relu()
        y: Tensor = self.out(x + self.back(self.norm(self.wide(x)).relu()))
        return y


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)
    )


KINDS: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "residual": Residual}


def made(kind: str) -> nn.Module:
    """A network whose layers are of low rank up to noise, in training mode."""
    torch.manual_seed(0)
    net = KINDS[kind]()
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Linear):
                out, inputs = layer.weight.shape
                low = torch.randn(out, 6) @ torch.randn(6, inputs)
                layer.weight.copy_((low + 0.1 * torch.randn(out, inputs)) / inputs**0.5)
        net(torch.randn(200, 20))
    return net


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def inputs() -> Tensor:
    return torch.randn(300, 20, generator=torch.Generator().manual_seed(1))


def loader(net: nn.Module, size: int = 32) -> DataLoader[Any]:
    """A loader of batches with the network's own classes as labels."""
    training, x = net.training, inputs()
    labels = net.eval()(x).argmax(1)
    net.train(training)
    return DataLoader(TensorDataset(x, labels), batch_size=size)


def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_module_a_state_dict_and_a_file_are_analysed_alike(kind: str, tmp_path: Path) -> None:
    net = made(kind)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    reports = [rmtcli.analyze(source) for source in (net, net.state_dict(), tmp_path / "net.pt")]
    records = [report.to_dict() for report in reports]
    for record in records:
        del record["source"]
    assert records[0] == records[1] == records[2]
    assert [r.source.path for r in reports[:2]] == [
        f"{type(net).__name__} (in memory)",
        "state dict (in memory)",
    ]
    assert reports[0].source.parameters == reports[2].source.parameters
    assert "rmtcli.compress(model" in str(reports[0])
    assert reports[0].source.sha256 == reports[1].source.sha256 != reports[2].source.sha256


@pytest.mark.parametrize("layout", ["factored", "pivoted", "dense", "narrow", "auto"])
def test_a_compressed_module_is_what_prune_writes(kind: str, layout: str, tmp_path: Path) -> None:
    net = made(kind)
    before, data = state(net), loader(net)
    small = rmtcli.compress(net, budget="60%", calibration=data, layout=layout)
    torch.save(before, tmp_path / "net.pt")
    np.savez(tmp_path / "data.npz", inputs=inputs().numpy())
    report = rmtcli.prune(
        tmp_path / "net.pt",
        tmp_path / "small.pt",
        budget=Budget("60%"),
        layout=layout,
        calibration=Calibration(tmp_path / "data.npz"),
        evaluation=Evaluation(model=KINDS[kind]),
    )
    assert report.pruned
    assert same(small.state_dict(), torch.load(tmp_path / "small.pt"))
    assert small.report.parameters == report.parameters
    mine, theirs = small.report.to_dict(), report.to_dict()
    for layer in theirs["layers"]:
        layer["stored_error"] = None  # of the file that was read back
    assert mine["layers"] == theirs["layers"]
    assert same(state(net), before)
    assert net.training
    assert small.training
    own = {value.untyped_storage().data_ptr() for value in net.state_dict().values()}
    stored = {value.untyped_storage().data_ptr() for value in small.state_dict().values()}
    assert not own & stored


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 4, "keep": "fraction:of=1"},
        {"bits": 3, "budget": "60%", "layout": "pivoted"},
        {"budget": Budget("20%", "bytes")},
    ],
)
def test_a_module_in_few_bits_is_saved_as_prune_writes_it(
    options: dict[str, Any], tmp_path: Path
) -> None:
    net, x = made("mlp"), inputs()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    np.savez(tmp_path / "data.npz", inputs=x.numpy())
    small = rmtcli.compress(net, calibration=x, **options)
    rmtcli.save(small, tmp_path / "a.safetensors")
    calibration = Calibration(tmp_path / "data.npz")
    report = rmtcli.prune(
        tmp_path / "net.safetensors", tmp_path / "b.safetensors", calibration=calibration, **options
    )
    assert same(*(load_file(tmp_path / f"{name}.safetensors") for name in "ab"))
    assert small.report.tensor_bytes == report.tensor_bytes
    assert report.tensor_bytes[1] < 0.2 * report.tensor_bytes[0]
    # The module runs as it is, and is made dense with the values that it has.
    with torch.no_grad():
        outputs = small(x)
        assert torch.equal(rmtcli.load(made("mlp"), tmp_path / "a.safetensors")(x), outputs)
        assert torch.allclose(rmtcli.densify(small)(x), outputs, atol=1e-4)
        small[0].weight.add_(1)
    rmtcli.save(small, tmp_path / "c.safetensors")
    packed = [name for name in load_file(tmp_path / "c.safetensors") if "_packed" in name]
    assert packed
    assert not any(name.startswith("0.") for name in packed)


def test_in_place_only_compressed_layers_change() -> None:
    net = made("residual")
    bias, norm, layer = net.out.bias, net.norm, net.wide
    net.wide.weight.requires_grad_(False)
    copy = rmtcli.compress(net, budget="60%")
    assert rmtcli.compress_(net, budget="60%") is net
    assert net.out.bias is bias
    assert net.norm is norm
    assert net.wide is not layer
    assert not net.wide[0].weight.requires_grad
    assert net.wide[1].bias.requires_grad
    assert same(net.state_dict(), copy.state_dict())
    assert net(inputs()).shape == (300, 10)


def test_refining_and_searching_leave_the_module_alone() -> None:
    net = made("residual")
    before, data = state(net), loader(net)

    def score(model: nn.Module) -> float:
        rows = [100.0 * (model(x).argmax(1) == y).float().mean() for x, y in data]
        return float(sum(rows) / len(rows))

    small = rmtcli.compress(net, max_drop=2, calibration=data, score=score)
    assert small.report.comparison is not None
    assert small.report.comparison.before is not None
    assert small.report.comparison.before.score == 100
    assert score(small.eval()) >= 98
    refined = rmtcli.compress(
        net, budget="60%", calibration=Calibration(data, sequential=True, heal=2)
    )
    assert not same(refined.state_dict(), state(rmtcli.compress(net, budget="60%")))
    measured = rmtcli.compress(net, max_drop=3, data=data)
    assert measured.report.guard is not None
    assert measured.report.guard.searched == 180  # 40 % calibrate
    assert same(state(net), before)


def test_a_report_holds_neither_weights_nor_samples() -> None:
    net = made("mlp")
    small = rmtcli.compress(net, budget="60%", calibration=loader(net), data=loader(net))
    kept = pickle.dumps(small.report)
    for values in (net[0].weight.detach(), inputs()):  # type: ignore[operator]
        assert values[3:5].numpy().tobytes() not in kept
    with pytest.raises(LayerError, match="not kept"):
        small.report.layers[0].layer.load()


def test_tied_weights_stay_tied() -> None:
    net = nn.ModuleDict({"a": nn.Linear(40, 40), "b": nn.Linear(40, 40)})
    net.b.weight = net.a.weight
    small = rmtcli.compress(
        net, keep="rank:k=5", selection=Selection(include=("a.weight", "b.weight"))
    )
    assert small.a[0].weight is small.b[0].weight
    assert small.a[1].bias is not small.b[1].bias


def test_a_wrapped_network_is_compressed_without_its_wrapper() -> None:
    net = made("mlp")
    small = rmtcli.compress(nn.DataParallel(net), budget="60%")
    assert same(small.state_dict(), rmtcli.compress(net, budget="60%").state_dict())


def test_gradients_do_not_depend_on_the_mode_of_the_caller() -> None:
    net, x = made("mlp"), inputs()
    expected = rmtcli.compress(net, budget="60%", calibration=x)
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            small = rmtcli.compress(net, budget="60%", calibration=x)
            assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert same(state(small), state(expected))
        small(x).sum().backward()
        assert all(value.grad is not None for value in small.parameters())


def test_half_precision_stays() -> None:
    net = made("mlp").to(torch.bfloat16)
    small = rmtcli.compress(net, budget="60%", calibration=inputs())
    assert {value.dtype for value in small.parameters()} == {torch.bfloat16}
    assert small(inputs().to(torch.bfloat16)).dtype == torch.bfloat16


class Locked(nn.Module):
    """A network that Python cannot copy."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.lock = made("mlp"), threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y


def test_a_module_that_cannot_be_copied_is_compressed_in_place() -> None:
    net = Locked()
    with pytest.raises(EvaluationError, match=r"cannot be copied .*compress_ changes a module"):
        rmtcli.compress(net, budget="60%")
    assert rmtcli.compress_(net, budget="60%") is net
    assert net(inputs()).shape == (300, 10)


def test_every_kind_of_inputs_is_read_as_the_same_arrays() -> None:
    x = inputs()
    y = torch.arange(len(x)) % 3
    pairs = TensorDataset(x, y)
    batches = list(x.split(50))

    def generator() -> Iterator[Tensor]:
        yield from batches

    kinds = (x, x.numpy(), (x, y), [x, y], pairs, DataLoader(pairs, 64), batches, generator())
    for source in (*kinds, DataLoader(TensorDataset(x), 64)):
        given = given_inputs(source)
        assert np.array_equal(given.inputs, x.numpy())
        labelled = not isinstance(source, Tensor | np.ndarray | Iterator) and source is not batches
        if labelled and not (isinstance(source, DataLoader) and len(source.dataset[0]) == 1):
            assert given.targets is not None
            assert np.array_equal(given.targets, y.numpy())
        else:
            assert given.targets is None


def test_dictionaries_become_tokens_with_their_padding_last() -> None:
    left = [[0, 1, 1], [1, 1, 1]]
    first = {"input_ids": torch.tensor([[0, 5, 6], [7, 8, 9]]), "attention_mask": left}
    mask = [[1, 1, 1, 1], [1, 1]]
    second = {"input_ids": [[4, 3, 2, 1], [9, 9]], "attention_mask": mask, "labels": [0, 1]}
    given = given_inputs([first, second])
    assert given.tokens
    tokens = [[5, 6, 0, 0], [9, 9, 0, 0], [7, 8, 9, 0], [4, 3, 2, 1]]
    assert given.inputs[:, 0].tolist() == tokens
    assert given.inputs[:, 1].sum(1).tolist() == [2, 2, 3, 4]
    assert given_inputs({"pixel_values": torch.zeros(2, 3, 8, 8)}).images
    assert given_inputs(["one text", "another"]).texts == ("one text", "another")


def used_up() -> Iterator[Tensor]:
    batches = iter([inputs()])
    next(batches)
    return batches


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        (5, UsageError, "a int is no source of inputs: give arrays"),
        ([], EvaluationError, "list: holds no samples"),
        (used_up(), EvaluationError, "an iterator, which may have been used up"),
        ([torch.zeros(4, 3), torch.zeros(4, 5)], EvaluationError, r"shapes \(4, 3\) and \(4, 5\)"),
        ([{"attention_mask": torch.ones(2, 3)}], UsageError, "needs 'input_ids' or 'pixel_values'"),
        ([{"input_ids": torch.ones(3)}], UsageError, "must have shape"),
        (torch.tensor([[float("nan"), 1.0]]), EvaluationError, "NaN or infinite"),
        (torch.zeros(5), EvaluationError, r"a batch has shape \(5,\)"),
        (np.array([["a", "b"]]), EvaluationError, "holds <U1, not numbers"),
        ([object()], UsageError, "a object is no batch"),
        (DataLoader([object()]), EvaluationError, "its batches cannot be read: TypeError"),
        ([torch.zeros(2, 3), {"input_ids": torch.ones(2, 3)}], EvaluationError, "shapes|at once"),
    ],
)
def test_wrong_inputs_are_one_line(source: object, kind: type[RmtcliError], message: str) -> None:
    with pytest.raises(kind, match=message):
        Calibration(source)


def test_wrong_networks_and_options_are_one_line(tmp_path: Path) -> None:
    net = made("mlp")
    lazy = nn.Linear(40, 40, device="meta")
    narrow, equal = torch.randn(9, 7), torch.zeros(9, 20)
    with torch.inference_mode():
        frozen = made("mlp")
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: rmtcli.analyze(5), "int is not a network: give a torch module"),
        (lambda: rmtcli.analyze({}), "holds no state dict"),
        (lambda: rmtcli.analyze(lazy), "'weight' is on the meta device"),
        (lambda: rmtcli.analyze(nn.ReLU()), "no fully connected layers"),
        (lambda: rmtcli.compress(net.state_dict()), "takes a torch module, not OrderedDict"),
        (lambda: rmtcli.compress(net, budget=0.2), "for a share of the model, write '20%'"),
        (lambda: rmtcli.compress(net, budget="much"), "such as 10%"),
        (lambda: rmtcli.compress(net, budget="60%", calibration=["text"]), "texts are for models"),
        (lambda: rmtcli.compress(net, budget="60%", calibration=equal), "that differ"),
        (
            lambda: rmtcli.compress(net, budget="60%", calibration=narrow),
            "does not take",
        ),
        (
            lambda: rmtcli.compress(net, max_drop=1, data=(inputs(), torch.zeros(9))),
            "a batch has shape",
        ),
        (lambda: rmtcli.compress(net, max_drop=1, score=lambda m: "good"), "not a number"),
        (lambda: rmtcli.compress(frozen, budget="60%"), "Sequential were made in torch.inference"),
        (lambda: rmtcli.prune(net, budget="60%"), "is in memory: name the output"),
        (lambda: rmtcli.finetune(net, evaluation=Evaluation()), "finetune reads a file"),  # type: ignore[arg-type]
    ]
    for call, message in cases:
        with pytest.raises(RmtcliError, match=message):
            call()
    assert same(state(net), state(made("mlp")))
    assert not list(tmp_path.iterdir())


def test_other_functions_take_a_module(tmp_path: Path) -> None:
    net = made("mlp")
    report = rmtcli.prune(net, tmp_path / "small.safetensors", budget="60%")
    loaded = rmtcli.load(mlp(), tmp_path / "small.safetensors")
    assert same(loaded.state_dict(), rmtcli.compress(net, budget="60%").state_dict())
    assert report.output is not None
    data = Evaluation(loader(net))
    assert rmtcli.evaluate(net, evaluation=data).comparison is not None
    points = rmtcli.curve(net, sizes=["60%"], evaluation=data, calibration=Calibration(inputs()))
    assert len(points.curve) == 1
    assert open_checkpoint(net).parameters == report.source.parameters
    with pytest.raises(CheckpointError, match="does not fit"):
        rmtcli.load(Residual(), tmp_path / "small.safetensors")


def test_messages_name_parameters_of_python() -> None:
    net = made("mlp")
    assert any("data= or score=" in note for note in rmtcli.compress(net).report.notes)
    with pytest.raises(UsageError, match=r"^max_drop= needs data= with 'targets', or score="):
        rmtcli.compress(net, max_drop=1)


def test_a_compressed_module_is_compressed_further_and_made_dense_at_once() -> None:
    net = made("residual")
    once = rmtcli.compress(net, budget="80%", selection=Selection(include=("wide.weight",)))
    twice = rmtcli.compress(once, keep="rank:k=6", selection=Selection(include=("back.weight",)))
    assert isinstance(twice.wide, nn.Sequential)
    assert isinstance(twice.back, nn.Sequential)
    dense = rmtcli.densify(twice)
    assert dense.state_dict().keys() == net.state_dict().keys()
    x = inputs()
    torch.testing.assert_close(dense.eval()(x), twice.eval()(x), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("layout", ["factored", "pivoted"])
@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_a_trained_module_is_saved_and_made_dense(
    kind: str, layout: str, ending: str, tmp_path: Path
) -> None:
    net = made(kind)
    small = rmtcli.compress(net, budget="60%", layout=layout)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.mul_(1.1)
    file, whole = tmp_path / f"small.{ending}", tmp_path / f"dense.{ending}"
    rmtcli.save(small, file)
    loaded = rmtcli.load(KINDS[kind](), file)
    assert same(loaded.state_dict(), small.state_dict())
    record = rmtcli.info(file).manifest
    assert record is not None
    assert record.factored
    dense, again = rmtcli.densify(small), rmtcli.densify(loaded)
    assert type(dense) is type(net)
    assert dense.state_dict().keys() == net.state_dict().keys()
    assert same(dense.state_dict(), again.state_dict())
    rmtcli.densify(file, whole)
    assert same(dense.state_dict(), rmtcli.load(KINDS[kind](), whole).state_dict())
    x = inputs()
    torch.testing.assert_close(dense.eval()(x), small.eval()(x), atol=1e-3, rtol=1e-4)
    with pytest.raises(UsageError, match="exists already"):
        rmtcli.save(small, file)


def test_a_narrower_module_is_saved_and_has_nothing_to_undo(tmp_path: Path) -> None:
    small = rmtcli.compress(made("mlp"), budget="60%", layout="narrow", calibration=inputs())
    rmtcli.save(small, tmp_path / "small.pt")
    loaded = rmtcli.load(mlp(), tmp_path / "small.pt")
    assert same(loaded.state_dict(), small.state_dict())
    with pytest.raises(LayerError, match="nothing to undo"):
        rmtcli.densify(small)


def test_what_cannot_be_saved_or_made_dense_is_one_line(tmp_path: Path) -> None:
    net = made("mlp")
    small, locked = rmtcli.compress(net, budget="60%"), rmtcli.compress_(Locked(), budget="60%")
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: rmtcli.densify(net), "holds no factors that rmtcli wrote"),
        (lambda: rmtcli.densify(locked), "its dense structure is not known"),
        (lambda: rmtcli.densify(small, tmp_path / "dense.pt"), "leave out the output"),  # type: ignore[call-overload]
        (lambda: rmtcli.densify(str(tmp_path / "small.pt")), "small.pt: no such file"),  # type: ignore[type-var]
        (lambda: rmtcli.save(small, tmp_path / "folder"), "only a model of transformers"),
        (lambda: rmtcli.save(small, tmp_path / "small.onnx"), "small.onnx"),
        (lambda: rmtcli.save(small.state_dict(), tmp_path / "a.pt"), "save takes a torch module"),  # type: ignore[arg-type]
    ]
    for call, message in cases:
        with pytest.raises(RmtcliError, match=message):
            call()
    assert not list(tmp_path.iterdir())


def test_a_budget_that_cannot_be_met_names_layers_that_do_not_run() -> None:
    class Beside(nn.Module):
        """A layer whose weight is used without calling it."""

        def __init__(self) -> None:
            super().__init__()
            self.inp, self.wide, self.out = nn.Linear(20, 64), nn.Linear(64, 64), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.out(nn.functional.linear(self.inp(x), self.wide.weight).relu())
            return y

    message = "layers that cannot change are among them, such as wide.weight: .*no input reached it"
    with pytest.raises(UsageError, match=message):
        rmtcli.compress(Beside(), budget="20%", calibration=torch.randn(100, 20))
