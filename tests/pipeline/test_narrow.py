"""Hidden layers made narrower: from a checkpoint to a smaller one that stays plain."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import rmtcli
from rmtcli import Calibration, Evaluation, Selection, prune
from rmtcli.calibration import read_stats
from rmtcli.errors import CheckpointError, LayerError, RmtcliError, UsageError
from rmtcli.keep import Untouched
from rmtcli.planning import Budget
from rmtcli.report.table import table
from tests.evaluation import factories
from tests.evaluation.test_tasks import TASKED, data_for, directory

FACTORY = "tests.evaluation.factories:normed"


def mlp(sizes: list[int], dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b, dtype=dtype), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Samples with the network's own classes as targets."""
    rng = np.random.default_rng(0)
    inputs = (rng.normal(size=(600, 20)) @ rng.normal(size=(20, 20))).astype(np.float32)
    arrays = {"train_inputs": inputs[:400], "train_targets": np.zeros(400, np.int64)}
    np.savez(tmp_path / "data.npz", inputs=inputs[400:], targets=np.zeros(200, np.int64), **arrays)
    return tmp_path / "data.npz"


def labelled(data: Path, model: nn.Module) -> Path:
    """The samples with the classes that a network gives them."""
    arrays = dict(np.load(data))
    with torch.no_grad():
        for part in ("", "train_"):
            x = torch.from_numpy(arrays[f"{part}inputs"])
            x = x.to(next(model.parameters()).dtype)
            arrays[f"{part}targets"] = model.eval()(x).argmax(1).numpy()
    np.savez(data, **arrays)
    return data


def chain(folder: Path, data: Path, *sizes: int) -> Path:
    model = mlp([20, *sizes, 4])
    labelled(data, model)
    save_file(model.state_dict(), folder / "net.safetensors")
    return folder / "net.safetensors"


def test_a_chain_becomes_a_narrower_chain(tmp_path: Path, data: Path) -> None:
    source = chain(tmp_path, data, 60, 60, 40)
    report = prune(
        source,
        tmp_path / "small.safetensors",
        layout="narrow",
        budget=Budget("50%"),
        evaluation=Evaluation(data),
        batches=[4],
    )
    (timed,) = report.latency
    assert all(before is not after for before, after in timed.layers.values())
    before, after = report.parameters
    assert 0.49 * before < after <= 0.5 * before
    state = load_file(tmp_path / "small.safetensors")
    assert state.keys() == load_file(source).keys()
    narrowed = [plan.narrowed for plan in report.layers]
    assert narrowed == [tuple(state[plan.layer.name].shape) for plan in report.layers]
    assert [shape[0] for shape in narrowed if shape][-1] == 4
    assert report.comparison is not None
    assert report.comparison.after.accuracy is not None
    assert report.comparison.after.accuracy > 80
    # The file is a plain network: torch builds it from its shapes, and rmtcli resizes the old one.
    sizes = [20, *(len(state[plan.layer.name]) for plan in report.layers)]
    plain, resized = (
        mlp(sizes),
        rmtcli.load(mlp([20, 60, 60, 40, 4]), tmp_path / "small.safetensors"),
    )
    plain.load_state_dict(state)
    x = torch.randn(9, 20)
    assert torch.equal(plain(x), resized(x))
    assert [m.in_features for m in resized if isinstance(m, nn.Linear)] == sizes[:-1]


@pytest.mark.parametrize("metric", ["one-sided", "two-sided"])
def test_the_predicted_loss_is_that_of_the_written_network(
    tmp_path: Path, data: Path, metric: str
) -> None:
    model = mlp([20, 60, 4], torch.float64)
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    stats = tmp_path / "stats.safetensors"
    report = prune(
        tmp_path / "net.safetensors",
        tmp_path / "small.safetensors",
        layout="narrow",
        budget=Budget("30%"),
        calibration=Calibration(labelled(data, model), metric, stats=stats, clean="none"),
    )
    small = rmtcli.load(mlp([20, 60, 4], torch.float64), tmp_path / "small.safetensors")
    x = torch.from_numpy(np.load(data)["train_inputs"]).double()
    with torch.no_grad():
        dense = model(x).numpy()
        error = dense - small(x).numpy()
    root = np.eye(4)
    if metric == "two-sided":
        gradient = read_stats(stats)[0]["2.weight"].gradient
        assert gradient is not None
        values, vectors = np.linalg.eigh(gradient)
        root = np.sqrt(np.maximum(values, 1e-4 * values[-1]))[:, None] * vectors.T
    share = np.sum((error @ root.T) ** 2) / np.sum(((dense - dense.mean(0)) @ root.T) ** 2)
    assert report.layers[1].predicted_loss == pytest.approx(share, rel=1e-6)
    assert report.layers[0].predicted_loss is None


def test_batchnorm_and_activation_are_cut_with_the_units(tmp_path: Path, data: Path) -> None:
    torch.manual_seed(0)
    model = factories.normed()
    with torch.no_grad():
        model.train()(torch.randn(64, 20))
    torch.save(model.state_dict(), tmp_path / "net.pt")
    options = Evaluation(labelled(data, model), model=FACTORY)
    report = prune(
        tmp_path / "net.pt",
        tmp_path / "small.pt",
        layout="narrow",
        budget=Budget("50%"),
        evaluation=options,
    )
    small = rmtcli.load(factories.normed(), tmp_path / "small.pt").eval()
    first, norm, act, second = small[:4]
    width = first.out_features
    assert width == norm.num_features == act.num_parameters == second.in_features < 60
    assert norm.running_mean.shape == act.weight.shape == (width,)
    assert report.comparison is not None
    assert report.comparison.after.accuracy is not None
    assert report.comparison.after.accuracy > 80
    assert report.parameters[1] <= 0.5 * report.parameters[0]


@pytest.mark.parametrize("case", ["bert", "gpt2", "llama"])
def test_a_directory_stays_a_stock_model(case: str, tmp_path: Path) -> None:
    source, data = directory(case, tmp_path), data_for(case, tmp_path)
    report = prune(
        source,
        tmp_path / "small",
        layout="narrow",
        budget=Budget("85%", "macs"),
        evaluation=Evaluation(data, task=TASKED[case]),
        calibration=Calibration(data),
    )
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    entry = "n_inner" if case == "gpt2" else "intermediate_size"
    assert 0 < config[entry] < (128 if case == "gpt2" else 48)
    assert not {"quantization_config", "auto_map"} & config.keys()
    assert not (tmp_path / "small" / "rmtcli_loading.py").exists()
    auto = transformers.AutoModel if case == "bert" else transformers.AutoModelForCausalLM
    model, info = auto.from_pretrained(tmp_path / "small", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert sum(p.numel() for p in model.parameters()) == report.parameters[1]
    assert any(f"{entry} {config[entry]}" in note for note in report.notes)
    with pytest.raises(CheckpointError, match="as a plain model, and there is nothing to verify"):
        rmtcli.verify(tmp_path / "small")
    reasons = {plan.untouched for plan in report.layers}
    assert reasons == {None, Untouched.NO_BLOCK}


def test_a_narrow_directory_in_few_bits_is_not_called_a_plain_model(tmp_path: Path) -> None:
    source, data = directory("bert", tmp_path), data_for("bert", tmp_path)
    report = prune(
        source,
        layout="narrow",
        bits=4,
        budget=Budget("85%", "macs"),
        evaluation=Evaluation(task=TASKED["bert"]),
        calibration=Calibration(data),
        dry_run=True,
    )
    (note,) = (note for note in report.notes if "config.json now has" in note)
    assert "plain model" not in note


@pytest.mark.parametrize("layout", ["narrow", "auto"])
def test_a_limit_on_the_drop_finds_widths(tmp_path: Path, data: Path, layout: str) -> None:
    source = chain(tmp_path, data, 60, 40)
    report = prune(
        source,
        tmp_path / "small.safetensors",
        layout=layout,
        max_drop=10.0,
        evaluation=Evaluation(data),
    )
    assert report.guard is not None
    assert report.parameters[1] < report.parameters[0]
    assert any(plan.narrowed for plan in report.layers)


def test_a_narrow_network_can_be_narrowed_again(tmp_path: Path, data: Path) -> None:
    source = chain(tmp_path, data, 60, 40)
    for i in range(2):
        target = tmp_path / f"{i}.safetensors"
        options = Evaluation(data)
        prune(source, target, layout="narrow", budget=Budget("70%"), evaluation=options)
        source = target
    assert rmtcli.info(target).manifest.narrowed["0.weight"] == [60, 20]
    small = rmtcli.load(mlp([20, 60, 40, 4]), target)
    assert small(torch.zeros(1, 20)).shape == (1, 4)


def test_what_describes_a_narrow_network(tmp_path: Path, data: Path) -> None:
    source = chain(tmp_path, data, 60, 40)
    target = tmp_path / "small.safetensors"
    report = prune(
        source,
        target,
        layout="narrow",
        budget=Budget("50%"),
        evaluation=Evaluation(data),
        selection=Selection(exclude=["4.weight"]),
    )
    rows = {row[0]: row for row in table(report)[1]}
    first = report.layers[0].narrowed
    assert first is not None
    assert rows["0.weight"][-1] == f"narrowed to {first[0]} of 60 outputs"
    assert rows["2.weight"][-1] == f"narrowed to {first[0]} of 60 inputs"
    lines = [text for label, text in rmtcli.info(target).lines if label == "layer"]
    assert lines == ["0.weight: narrowed from 60×20", "2.weight: narrowed from 40×60"]
    with pytest.raises(LayerError, match="narrower, and its layers are dense: there is nothing to"):
        rmtcli.densify(target, tmp_path / "dense.safetensors")
    difference = rmtcli.diff(source, target)
    assert difference.missing == (("0.weight", None), ("2.weight", None))
    assert ("other shape", "0.weight") in difference.summary()


def test_only_a_file_with_the_record_resizes_a_module(tmp_path: Path, data: Path) -> None:
    source = chain(tmp_path, data, 60, 40)
    target = tmp_path / "small.safetensors"
    prune(source, target, layout="narrow", budget=Budget("50%"), evaluation=Evaluation(data))
    save_file(load_file(target), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="does not fit Sequential: size mismatch"):
        rmtcli.load(mlp([20, 60, 40, 4]), tmp_path / "other.safetensors")


#: Options beside the layout -> the beginning of the message.
REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "no budget": ({"calibrated": True}, 'layout="narrow" divides a budget'),
    "no data": ({"budget": Budget("50%")}, 'layout="narrow" runs the network'),
    "time": (
        {"budget": Budget("50%", "ms"), "batches": [1], "calibrated": True},
        r'Budget\(…, "ms"\) times factors',
    ),
    "fit": ({"budget": Budget("50%"), "sequential": True}, 'layout="narrow" fits what reads'),
    "sharing": (
        {"budget": Budget("50%"), "share_inputs": True, "calibrated": True},
        'layout="narrow" has no factors',
    ),
    "too small": ({"budget": Budget("0.2%"), "calibrated": True}, ".*cannot be met"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_that_do_not_fit_are_refused(case: str, tmp_path: Path, data: Path) -> None:
    source = chain(tmp_path, data, 60, 40)
    given, message = REFUSED[case]
    options = dict(given)
    sequential = bool(options.pop("sequential", False))
    if options.pop("calibrated", False) or sequential:
        options["calibration"] = Calibration(data, sequential=sequential)
    with pytest.raises(UsageError, match=message):
        prune(source, tmp_path / "small.safetensors", layout="narrow", **options)
    assert not (tmp_path / "small.safetensors").exists()


def test_a_network_without_such_a_hidden_layer_is_refused(tmp_path: Path) -> None:
    model = factories.residual()
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", inputs=rng.normal(size=(50, 40)).astype(np.float32))
    options = Evaluation(model="tests.evaluation.factories:residual")
    with pytest.raises(RmtcliError, match="has no hidden layer that can be made narrower"):
        prune(
            tmp_path / "net.safetensors",
            layout="narrow",
            budget=Budget("50%"),
            evaluation=options,
            calibration=Calibration(tmp_path / "data.npz"),
        )
