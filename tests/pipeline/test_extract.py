"""An adapter from the difference of two networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rmtcli as package
from rmtcli.adapters import read_adapter
from rmtcli.errors import LayerError, RmtcliError, UsageError
from rmtcli.keep import Untouched
from rmtcli.report.headline import next_steps
from tests.conftest import Run
from tests.report.test_schema import CHECK

#: Shapes of the layers, and the ranks of the signals that are planted in their changes.
LAYERS = {"a": ((96, 64), 3), "b": ((64, 96), 0), "c": ((80, 80), 5)}
STEP = 1e-4


def planted(dtype: torch.dtype = torch.float32, *, signal: bool = True) -> list[dict[str, Any]]:
    """State dicts before and after training: noise of the optimizer's size, and directions."""
    rng = np.random.default_rng(0)
    base, tuned = {}, {}
    for name, ((out, inputs), rank) in LAYERS.items():
        weight = torch.from_numpy(0.03 * rng.standard_normal((out, inputs))).to(dtype)
        change = STEP * rng.standard_normal((out, inputs))
        if rank and signal:
            left, right = (np.linalg.qr(rng.standard_normal((m, rank)))[0] for m in (out, inputs))
            change += 3 * STEP * (out * inputs) ** 0.25 * left @ right.T
        base[f"{name}.weight"] = weight
        tuned[f"{name}.weight"] = (weight.double() + torch.from_numpy(change)).to(dtype)
        base[f"{name}.bias"] = tuned[f"{name}.bias"] = torch.zeros(out)
    return [base, tuned]


def files(folder: Path, *states: dict[str, Any]) -> list[Path]:
    paths = [folder / f"{name}.safetensors" for name in ("base", "tuned")]
    for path, state in zip(paths, states, strict=True):
        save_file({name: x.contiguous() for name, x in state.items()}, path)
    return paths


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_layer_gets_the_rank_of_its_signal(tmp_path: Path, dtype: torch.dtype) -> None:
    base, tuned = planted(dtype)
    report = package.extract(*files(tmp_path, base, tuned))
    assert {p.layer.name[0]: p.rank for p in report.layers} == {"a": 3, "b": 0, "c": 5}
    assert report.layers[1].untouched is Untouched.NO_SPIKES
    read = read_adapter(tmp_path / "tuned.adapter")
    assert (read.base, [layer.module for layer in read.layers]) == (
        str(tmp_path / "base.safetensors"),
        ["a", "c"],
    )
    total = kept = 0.0
    for layer in read.layers:
        change = (tuned[f"{layer.module}.weight"].double() - base[f"{layer.module}.weight"]).numpy()
        left, right = layer.factors()
        u, s, v = np.linalg.svd(change)
        best = (u[:, : layer.rank] * s[: layer.rank]) @ v[: layer.rank]
        error = np.linalg.norm(layer.scale * left @ right - best) / np.linalg.norm(best)
        assert error < (1e-6 if dtype == torch.float32 else 5e-3)
        kept += float((s[: layer.rank] ** 2).sum())
    for name in LAYERS:
        change = (tuned[f"{name}.weight"].double() - base[f"{name}.weight"]).numpy()
        total += float((change**2).sum())
    assert report.extracted is not None
    assert report.extracted.kept == pytest.approx(kept / total, rel=1e-4)
    sizes = [np.prod(shape) * STEP**2 for shape, _ in LAYERS.values()]
    steps = sum(sizes) / total
    # Rounding is noise, too.
    assert report.extracted.noise == pytest.approx(
        steps if dtype == torch.float32 else 1.15 * steps, rel=0.1
    )


def test_noise_gives_no_adapter_and_says_so(tmp_path: Path, rmtcli: Run) -> None:
    paths = files(tmp_path, *planted(signal=False))
    done = rmtcli("extract", *paths)
    assert done.returncode == 1
    assert "no layer's change is above its noise: no adapter written" in done.stderr
    assert done.stdout.count("left out: no eigenvalue is above the edge") == 3
    assert not (tmp_path / "tuned.adapter").exists()


def test_equal_networks_have_no_change(tmp_path: Path) -> None:
    base = planted()[0]
    report = package.extract(base, base, dry_run=True)
    assert report.layers == ()
    assert report.extracted is not None
    assert report.extracted.unchanged == 3
    for ending in ("html", "md", "json"):
        report.save(tmp_path / f"none.{ending}")
        assert "unchanged" in (tmp_path / f"none.{ending}").read_text()


def test_what_changed_beside_the_layers_is_held_or_named(tmp_path: Path, rmtcli: Run) -> None:
    base, tuned = planted()
    table = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    base |= {"norm.weight": torch.ones(16), "embed_tokens.weight": table, "gone.x": torch.ones(2)}
    base["scale"], tuned["scale"] = torch.tensor(1.0), torch.tensor(1.1)
    tuned |= {"norm.weight": 1.01 * torch.ones(16), "embed_tokens.weight": 1.001 * table}
    tuned["a.bias"] = torch.full((96,), 0.01)
    paths = files(tmp_path, base, tuned)
    failed = rmtcli("extract", *paths, "-o", tmp_path / "out", "--fail-if", "adapter.kept < 0.9")
    assert (failed.returncode, (tmp_path / "out").exists()) == (1, False)
    done = rmtcli("extract", *paths, "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    CHECK.validate(record)
    beside = {item["name"]: item["saved"] for item in record["adapter"]["beside"]}
    assert beside == {
        "a.bias": True,
        "norm.weight": True,
        "embed_tokens.weight": False,
        "scale": False,
    }
    assert record["adapter"]["only"] == [{"name": "gone.x", "in": "BASE"}]
    written = load_file(tmp_path / "out" / "adapter_model.safetensors")
    torch.testing.assert_close(
        written["base_model.model.a.base_layer.bias"], tuned["a.bias"], rtol=0, atol=0
    )
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["norm"]
    assert config["bias"] == "all"
    report = package.extract(*paths, dry_run=True, whole=["embed_tokens"])
    assert "embed_tokens.weight, 200×16" in str(report)
    assert str(report).count("left out  ") == 1  # a parameter of no module
    tuned["embed_tokens.weight"] = 2 * table
    for whole, told in (([], True), (["embed_tokens"], False)):
        notes = " ".join(package.extract(base, tuned, dry_run=True, whole=whole).notes)
        assert ("tensors that are left out: include them with whole=" in notes) is told


def test_new_tokens_are_held_with_their_table(tmp_path: Path) -> None:
    base, tuned = planted()
    base["embed_tokens.weight"] = torch.ones(50, 16)
    tuned["embed_tokens.weight"] = torch.ones(53, 16)
    report = package.extract(base, tuned, tmp_path / "out")
    saved = read_adapter(tmp_path / "out").saved
    assert saved["embed_tokens.weight"].shape == (53, 16)
    assert any("resize_token_embeddings(53)" in note for note in report.notes)


def test_ranks_have_limits(tmp_path: Path) -> None:
    base, tuned = planted()

    def ranks(**options: Any) -> list[int]:
        report = package.extract(base, tuned, dry_run=True, **options)
        return [plan.rank for plan in report.layers]

    assert ranks(max_rank=4) == [3, 0, 4]
    assert ranks(keep="rank:k=2") == [2, 2, 2]
    assert ranks(keep="rank:k=9", edge="bema", max_rank=7) == [7, 7, 7]
    assert ranks(keep="rank:k=1000") == [64, 64, 80]  # no more than the layers have
    given = ranks(budget="1000")
    assert 800 < sum(r * sum(LAYERS[n][0]) for r, n in zip(given, LAYERS, strict=True)) <= 1000
    # Directions of the signal come before those of the noise.
    assert given[1] == 0
    assert min(given[0], given[2]) > 0
    assert sum(ranks(budget="10%")) > sum(given)


def test_one_file_in_kohyas_style(tmp_path: Path) -> None:
    base, tuned = planted()
    tuned["a.bias"] = torch.ones(96)
    report = package.extract(base, tuned, tmp_path / "out.safetensors", style="kohya", prefix="te")
    names = set(load_file(tmp_path / "out.safetensors"))
    assert {f"te_a.{part}" for part in ("alpha", "lora_down.weight", "lora_up.weight")} <= names
    assert report.extracted is not None
    assert [item.saved for item in report.extracted.beside] == [False]


def test_a_convolution_gets_factors_of_its_kernels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = {"conv.weight": torch.randn(40, 16, 3, 3), "fc.weight": torch.randn(64, 40)}
    change = (torch.randn(40, 2) @ torch.randn(2, 144)).reshape(40, 16, 3, 3)
    tuned = base | {"conv.weight": base["conv.weight"] + change}
    selection = package.Selection(convolutions=True)
    package.extract(base, tuned, tmp_path / "out", selection=selection)
    (layer,) = read_adapter(tmp_path / "out").layers
    assert (layer.left.shape, layer.right.shape) == ((40, 2, 1, 1), (2, 16, 3, 3))
    left, right = layer.factors()
    np.testing.assert_allclose((left @ right).reshape(change.shape), change, atol=1e-5)


def test_directions_are_those_that_the_inputs_use(tmp_path: Path) -> None:
    """Of two directions of one strength, inputs reach one only."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 40))
    tuned = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 40))
    tuned.load_state_dict(base.state_dict())
    basis = torch.linalg.qr(torch.randn(64, 64))[0]
    with torch.no_grad():
        tuned[0].weight += basis[:, :1] @ basis[:, 1:2].T + 0.9 * basis[:, 2:3] @ basis[:, 3:4].T
    inputs = torch.randn(600, 64) @ (torch.eye(64) - basis[:, 1:2] @ basis[:, 1:2].T)
    calibration = package.Calibration((inputs.numpy(),), metric="one-sided", clean="none")
    options = {"keep": "rank:k=1", "calibration": calibration}
    report = package.extract(base, tuned, tmp_path / "out", **options)
    assert report.extracted is not None
    assert report.extracted.by_output == pytest.approx(1, abs=1e-3)
    assert report.extracted.kept == pytest.approx(0.81 / 1.81, rel=0.01)
    assert report.calibrated is not None
    assert "by output" in str(report)


def classifiers(folder: Path) -> tuple[list[Path], Path]:
    """A random network, one whose change of rank 2 gives each sample its class, and samples."""
    rng = np.random.default_rng(2)
    first, head = rng.standard_normal((64, 48)) / 7, rng.standard_normal((40, 64)) / 50
    inputs = rng.standard_normal((3000, 48))
    hidden = np.maximum(inputs @ first.T, 0)
    mean, noise = hidden.mean(0), 1e-4 * rng.standard_normal((40, 64))
    ways = np.linalg.qr((hidden - mean)[:2].T)[0].T
    change = rng.standard_normal((40, 2)) @ ways + noise
    base = {"0.weight": first, "0.bias": np.zeros(64), "2.weight": head, "2.bias": np.zeros(40)}
    tuned = base | {"2.weight": head + change, "2.bias": -change @ mean}
    states = [{name: torch.tensor(x).float() for name, x in s.items()} for s in (base, tuned)]
    targets = (hidden @ tuned["2.weight"].T + tuned["2.bias"]).argmax(1)
    np.savez(folder / "data.npz", inputs=inputs.astype("f4"), targets=targets)
    return files(folder, *states), folder / "data.npz"


def test_the_smallest_adapter_within_a_limit(tmp_path: Path, rmtcli: Run) -> None:
    paths, data = classifiers(tmp_path)
    out = tmp_path / "out"
    given = ("--include", "2", "--data", data)
    done = rmtcli("extract", *paths, "-o", out, "--max-drop", "2", *given, "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    CHECK.validate(record)
    assert [layer["rank"] for layer in record["layers"]] == [2]
    assert record["guard"]["max_drop"] == 2
    assert record["guard"]["drop"] < 1
    assert record["accuracy"]["before"] == 100
    # What was scored is what merge makes of the adapter.
    package.merge(paths[0], out, tmp_path / "merged.safetensors")
    scored = package.evaluate(
        tmp_path / "merged.safetensors", evaluation=package.Evaluation(data), against=paths[1]
    )
    assert scored.comparison is not None
    assert scored.comparison.after.accuracy == pytest.approx(record["accuracy"]["after"])
    done = rmtcli("extract", *paths, "--max-drop", "2", "--max-rank", "1", *given)
    assert done.returncode == 1
    assert "no adapter is within --max-drop 2" in done.stderr
    assert not (tmp_path / "tuned.adapter").exists()
    with pytest.raises(UsageError, match="max_drop= needs data= with 'targets'"):
        package.extract(*paths, max_drop=1.0)
    text = str(package.extract(*paths, evaluation=package.Evaluation(data), dry_run=True))
    assert str(paths[1]) in text
    assert "accuracy" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_drop": 1.0, "budget": "9"}, "a budget and max_drop= exclude each other"),
        ({"style": "lora"}, "style= is peft or kohya, not 'lora'"),
        ({"max_rank": 0}, "max_rank= must be at least 1, not 0"),
        ({"keep": "rank:k=2", "budget": "9"}, 'keep="rank:k=2" sets ranks itself'),
        ({"whole": ["head"]}, 'whole="head": matches no tensor'),
        ({"calibration": package.Calibration(heal=1)}, "refine no adapter"),
        ({"output": "out.bin", "style": "kohya"}, "is a .safetensors file"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    base, tuned = planted()
    with pytest.raises(UsageError, match=message):
        package.extract(base, tuned, **{"output": "out"} | options)


def damaged(tuned: dict[str, Any], how: str) -> dict[str, Any]:
    if how == "other names":
        return {f"x.{name}": tensor for name, tensor in tuned.items()}
    if how == "another width":
        return tuned | {"a.weight": torch.ones(96, 60)}
    return tuned | {"a.weight": torch.full((96, 64), torch.nan)}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("other names", "have no tensor of the same name"),
        ("another width", r"not one network before and after training: a.weight"),
        ("not finite", "a.weight holds values that are NaN or infinite"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, how: str, message: str) -> None:
    base, tuned = planted()
    with pytest.raises(LayerError, match=message):
        package.extract(base, damaged(tuned, how), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_input_is_never_replaced(tmp_path: Path) -> None:
    paths = files(tmp_path, *planted())
    with pytest.raises(RmtcliError, match="is an input"):
        package.extract(*paths, paths[0], style="kohya", force=True)


def llama() -> Any:
    """A tiny Llama with a tied head, which its files do not hold."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads))


def gpt2() -> Any:
    """A tiny GPT-2: weights stored as in × out, and a tied head."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 90, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 32}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **ends))


def bert() -> Any:
    """A tiny BERT, whose table of tokens gets factors."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    return transformers.BertModel(
        transformers.BertConfig(**sizes, num_attention_heads=2, max_position_embeddings=32)
    )


def tuned_pair(folder: Path, network: Any) -> tuple[Path, Path]:
    """Save a network, change each matrix by two directions and all else, and save it again."""
    torch.manual_seed(0)
    network.eval().save_pretrained(folder / "base")
    with torch.no_grad():
        for tensor in network.parameters():
            if tensor.ndim == 2:
                tensor += 0.1 * torch.randn(len(tensor), 2) @ torch.randn(2, tensor.shape[1])
            else:
                tensor += 0.1 * torch.randn_like(tensor)
    network.save_pretrained(folder / "tuned", max_shard_size="20KB")
    assert len(list((folder / "tuned").glob("*.safetensors"))) > 1
    return folder / "base", folder / "tuned"


WHOLE = {
    llama: ["model.embed_tokens"],
    gpt2: ["transformer.wte", "transformer.wpe"],
    bert: ["*position_embeddings*", "*token_type*"],
}


@pytest.mark.filterwarnings("ignore:::peft", "ignore:::transformers")
@pytest.mark.parametrize("make", WHOLE)
def test_peft_opens_it_and_gives_the_tuned_networks_outputs(make: Any, tmp_path: Path) -> None:
    peft, network = pytest.importorskip("peft"), make()
    base, tuned = tuned_pair(tmp_path, network)
    selection = package.Selection(embeddings=make is bert)
    report = package.extract(base, tuned, tmp_path / "out", whole=WHOLE[make], selection=selection)
    assert {plan.rank for plan in report.layers} == {2}
    assert report.extracted is not None
    assert report.extracted.kept == pytest.approx(1, abs=1e-6)
    names = {"PeftModel": peft.PeftModel, "model": type(network).from_pretrained(base)}
    exec(dict(next_steps(report))["load"], names)  # the line that a terminal shows
    model, tokens = names["model"], torch.arange(20)[None]
    with torch.no_grad():
        expected = network(tokens)[0]
        torch.testing.assert_close(model.eval()(tokens)[0], expected, rtol=0, atol=1e-4)
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(tokens)[0], expected, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:::peft", "ignore:::transformers")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_peft_opens_an_adapter_in_sixteen_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    peft, network = pytest.importorskip("peft"), llama().to(dtype)
    base, tuned = tuned_pair(tmp_path, network)
    package.extract(base, tuned, tmp_path / "out", keep="rank:k=2", whole=["model.embed_tokens"])
    layers = read_adapter(tmp_path / "out").layers
    assert {x.left.dtype for x in layers} == {"BF16" if dtype == torch.bfloat16 else "F16"}
    plain = type(network).from_pretrained(base, dtype=dtype)
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        expected, before = network(tokens)[0].float(), plain(tokens)[0].float()
        model = peft.PeftModel.from_pretrained(plain, tmp_path / "out").eval()
        merged = package.merge(base, tmp_path / "out", tmp_path / "merged")
        again = type(network).from_pretrained(tmp_path / "merged", dtype=dtype)
        for outputs in (model(tokens)[0].float(), again(tokens)[0].float()):
            moved, missed = (float((x - expected).norm()) for x in (before, outputs))
            assert missed < 0.05 * moved
    assert merged.output is not None


def test_a_tied_table_gets_no_factors(tmp_path: Path) -> None:
    base, tuned = tuned_pair(tmp_path, llama())
    selection = package.Selection(embeddings=True)
    report = package.extract(base, tuned, dry_run=True, selection=selection)
    (table,) = (plan for plan in report.layers if plan.layer.view.table)
    assert table.untouched is Untouched.SHARED
