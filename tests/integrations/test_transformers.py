"""Factored directories in transformers 4.57 and 5: loading, saving, training, copying."""

from __future__ import annotations

import copy
import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

transformers = pytest.importorskip("transformers")

import rmtcli.integrations.transformers  # noqa: E402
from rmtcli.checkpoint.huggingface.loading import IMPORT, TRUST  # noqa: E402
from rmtcli.integrations.rmtcli_loading import (  # noqa: E402
    HOW,
    Product,
    RmtcliConfig,
    SplitLinear,
)
from tests.integrations.factored import (  # noqa: E402
    CASES,
    RANK,
    load,
    logits,
    mark,
    tokenizer,
    write,
)

FIVE = int(transformers.__version__.split(".")[0]) >= 5
Directories = dict[str, tuple[Path, Path]]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Directories:
    """The factored and the product directory of each architecture."""
    return {name: write(case, tmp_path_factory.mktemp(name)) for name, case in CASES.items()}


@pytest.fixture(params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def close(a: torch.Tensor, b: torch.Tensor, within: float = 1e-5) -> None:
    """Assert equality up to rounding: float32 rounds at 6e-8, in some dozen sums of 50 terms."""
    assert (a - b).abs().max() <= within * b.abs().max()


def stored(directory: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in directory.glob("*.safetensors") for k, v in load_file(file).items()}


def entry(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "config.json").read_text())["quantization_config"]  # type: ignore[no-any-return]


def split(model: torch.nn.Module) -> list[SplitLinear]:
    return [module for module in model.modules() if isinstance(module, SplitLinear)]


def altered(directory: Path, target: Path, **changes: Any) -> Path:
    """A copy with changes in its ``quantization_config``."""
    shutil.copytree(directory, target)
    known = entry(directory)
    mark(target, **{key: known[key] for key in ("ranks", "pivoted")} | changes)
    return target


def test_logits_equal_those_of_the_products(name: str, directories: Directories) -> None:
    factored, product = directories[name]
    model = load(factored, CASES[name])
    assert len(split(model)) == len(entry(factored)["ranks"])
    assert {module.right.out_features for module in split(model)} == {RANK}
    close(logits(model, CASES[name]), logits(load(product, CASES[name]), CASES[name]))


def test_saving_a_loaded_model_writes_the_same_tensors(
    name: str, directories: Directories, tmp_path: Path
) -> None:
    factored, _ = directories[name]
    model = load(factored, CASES[name])
    model.save_pretrained(tmp_path / "again", max_shard_size="20KB")
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 1
    before, after = stored(factored), stored(tmp_path / "again")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert entry(tmp_path / "again") == entry(factored)
    source = Path(rmtcli.integrations.rmtcli_loading.__file__).read_bytes()
    assert (tmp_path / "again" / "rmtcli_loading.py").read_bytes() == source
    again = load(tmp_path / "again", CASES[name])
    close(logits(again, CASES[name]), logits(model, CASES[name]))


@pytest.mark.parametrize("when", ["after", "on loading"])
def test_dequantize_gives_a_dense_model(
    name: str, when: str, directories: Directories, tmp_path: Path
) -> None:
    factored, product = directories[name]
    case = CASES[name]
    if when == "after":
        model = load(factored, case)
        model.dequantize()
    else:
        config = transformers.AutoConfig.from_pretrained(factored)
        config.quantization_config["dequantize"] = True
        model = load(factored, case, config=config)
    assert not split(model)
    close(logits(model, case), logits(load(product, case), case))
    model.save_pretrained(tmp_path)
    names = {key: tensor.shape for key, tensor in stored(product).items()}
    assert {key: tensor.shape for key, tensor in stored(tmp_path).items()} == names
    saved = json.loads((tmp_path / "config.json").read_text())
    assert "quantization_config" not in saved
    assert not saved.get("auto_map")
    close(logits(load(tmp_path, case), case), logits(model, case))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_close_logits(
    name: str, dtype: torch.dtype, directories: Directories
) -> None:
    factored, product = directories[name]
    case = CASES[name]
    model, dense = (load(path, case, dtype=dtype) for path in (factored, product))
    kept = {"wo"} if name == "t5" and dtype == torch.float16 else set()
    for path, module in model.named_modules():
        if isinstance(module, SplitLinear):
            wanted = torch.float32 if path.rpartition(".")[2] in kept else dtype
            assert {p.dtype for p in module.parameters()} == {wanted}, path
    exact = logits(load(factored, case), case)
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in case.inputs().items()}
    with torch.no_grad():
        half, dense_half = (
            (out.logits if "logits" in out else out.last_hidden_state).float()
            for out in (model(**inputs), dense(**inputs))
        )
    # It rounds at most twice as often as the dense model, so its error may be a few times larger.
    error, usual = ((item - exact).norm() / exact.norm() for item in (half, dense_half))
    assert error <= 4 * usual + torch.finfo(dtype).eps


def test_factors_are_trained(name: str, directories: Directories) -> None:
    model = load(directories[name][0], CASES[name])
    assert model.hf_quantizer.is_trainable
    model.train()
    output = model(**CASES[name].inputs())
    (output.logits if "logits" in output else output.last_hidden_state).square().mean().backward()
    # No logits depend on the pooler, and some experts get no token.
    unused = {"pooler", "experts"}
    for path, parameter in model.named_parameters():
        if parameter.ndim == 2 and not unused & set(path.split(".")):
            assert parameter.grad is not None, path
    factors = [side.weight.grad for layer in split(model) for side in (layer.left, layer.right)]
    assert sum(grad is not None and bool(grad.abs().max() > 0) for grad in factors) > 10
    model.half().float()  # transformers forbids both for quantized models


def test_copied_and_pickled_models_work(directories: Directories, tmp_path: Path) -> None:
    case = CASES["mixtral"]
    model = load(directories["mixtral"][0], case)
    wanted = logits(model, case)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        close(logits(copied, case), wanted)
        with torch.no_grad():
            copied.lm_head.weight.zero_()
        copied.save_pretrained(tmp_path)
        assert not logits(load(tmp_path, case), case).any()
    close(logits(model, case), wanted)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_weight_of_a_split_layer_is_the_product(
    name: str, number: int, directories: Directories
) -> None:
    """It has the dense layer's orientation and gradients, for code that does not call the layer."""
    layer = split(load(directories[name][0], CASES[name]))[number]
    dense, x = layer.dense(), torch.randn(3, layer.in_features)
    assert layer.weight.shape == dense.weight.shape
    matrix = layer.weight.T if layer.transposed else layer.weight
    for outputs in (torch.nn.functional.linear(x, matrix, layer.bias), layer(x)):
        close(outputs, dense(x))
    close(torch.stack([layer.weight, layer.weight])[1], dense.weight)
    matrix.square().sum().backward()
    assert layer.right.weight.grad.abs().sum() > 0
    assert layer.weight.requires_grad


def test_reading_the_dtype_of_a_weight_multiplies_nothing(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T5 reads ``wo.weight.dtype`` in every forward pass."""
    monkeypatch.setattr(Product, "computed", lambda self: pytest.fail("multiplied"))
    model = load(directories["t5"][0], CASES["t5"])
    layer = split(model)[0]
    assert isinstance(layer.weight, torch.Tensor)
    assert layer.weight.device == torch.device("cpu")
    assert logits(model, CASES["t5"]).isfinite().all()


@pytest.mark.parametrize(
    ("name", "auto", "missing"),
    [
        ("bert", "AutoModelForSequenceClassification", {"classifier"}),
        ("bert", "AutoModelForTokenClassification", {"classifier"}),  # which has no pooler
        ("bert-head", "AutoModel", set()),
        ("llama", "AutoModel", set()),
        ("gpt2", "AutoModel", set()),
        ("mixtral", "AutoModel", set()),
        ("vit", "AutoModel", {"pooler"}),
    ],
)
def test_a_model_with_another_head_loads_the_shared_layers(
    name: str, auto: str, missing: set[str], directories: Directories
) -> None:
    """Prefixes such as ``bert.`` differ; only weights that the file lacks are missing."""
    kind = getattr(transformers, auto)
    factored, product = directories[name]
    model, info = kind.from_pretrained(factored, output_loading_info=True)
    _, usual = kind.from_pretrained(product, output_loading_info=True)
    assert set(info["missing_keys"]) == set(usual["missing_keys"])
    assert {key.split(".")[0] for key in info["missing_keys"]} == missing
    assert len(split(model)) >= len(entry(factored)["ranks"]) - 1
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_a_rank_without_a_layer_is_refused(directories: Directories, tmp_path: Path) -> None:
    factored = directories["llama"][0]
    for wrong, message in (
        ("model.layers.7.mlp.up_proj", "changes 'model.layers.7.mlp.up_proj', and Llama"),
        ("model.embed_tokens", "which is not a linear layer in LlamaForCausalLM but Embedding"),
    ):
        ranks = entry(factored)["ranks"] | {wrong: 3}
        directory = altered(factored, tmp_path / wrong, ranks=ranks)
        with pytest.raises(ValueError, match=message):
            load(directory, CASES["llama"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 5}, "version 5 of the format, and this rmtcli knows 4"),
        ({"version": "1"}, "version 1 of the format"),
        ({"ranks": {"model.layers.0.mlp.up_proj": 0}}, "positive whole number"),
        ({"ranks": {"model.layers.0.mlp.up_proj": True}}, "positive whole number"),
        ({"ranks": None}, "'ranks' under quantization_config"),
    ],
)
def test_a_wrong_entry_is_refused(
    changes: dict[str, Any], message: str, directories: Directories, tmp_path: Path
) -> None:
    directory = altered(directories["llama"][0], tmp_path / "wrong", **changes)
    with pytest.raises(ValueError, match=message):
        load(directory, CASES["llama"])


def test_registering_twice_changes_nothing() -> None:
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    rmtcli.integrations.transformers.register()
    assert AUTO_QUANTIZATION_CONFIG_MAPPING["rmtcli"] is RmtcliConfig


def test_config_classes_of_transformers_are_not_marked_as_remote_code() -> None:
    from rmtcli.integrations import rmtcli_loading

    opener = rmtcli_loading.BertConfig
    opener.register_for_auto_class()
    assert type(opener(hidden_size=48)) is transformers.BertConfig
    assert transformers.BertConfig._auto_class is None
    with pytest.raises(AttributeError, match="no attribute 'BertModel'"):
        rmtcli_loading.BertModel  # noqa: B018


@pytest.mark.skipif(not FIVE, reason="transformers 4 has no table of renamed weights")
def test_a_renaming_of_weights_applies_to_their_factors(
    directories: Directories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some patterns of transformers end in ``.weight``, which the names of factors do not match."""
    from safetensors.torch import save_file
    from transformers import conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    case = CASES["llama"]
    factored, _ = directories["llama"]
    shutil.copytree(factored, tmp_path / "old")
    old = {name.replace("up_proj", "rise"): t for name, t in stored(factored).items()}
    save_file(old, tmp_path / "old" / "model.safetensors", {"format": "pt"})
    ranks, pivoted = (
        {name.replace("up_proj", "rise"): value for name, value in entry(factored)[key].items()}
        for key in ("ranks", "pivoted")
    )
    mark(tmp_path / "old", ranks, pivoted=pivoted)
    original = conversion_mapping.get_checkpoint_conversion_mapping

    def renamed(key: str) -> Any:
        if key != "llama":
            return original(key)
        return [WeightRenaming(r"mlp.rise.weight", "mlp.up_proj.weight")]

    monkeypatch.setattr(conversion_mapping, "get_checkpoint_conversion_mapping", renamed)
    model = load(tmp_path / "old", case)
    close(logits(model, case), logits(load(factored, case), case))
    model.save_pretrained(tmp_path / "again")
    assert stored(tmp_path / "again").keys() == old.keys()


@pytest.mark.usefixtures("unknown")
def test_transformers_alone_refuses_the_directory_and_says_how_to_load_it(
    directories: Directories, name: str
) -> None:
    factored, _ = directories[name]
    case = CASES[name]
    for kind in (case.auto, case.cls):
        with pytest.raises(ValueError, match=re.escape(HOW)):
            getattr(transformers, kind).from_pretrained(factored)


@pytest.mark.usefixtures("unknown")
def test_pipelines_refuse_the_directory_too(directories: Directories, tmp_path: Path) -> None:
    shutil.copytree(directories["bert"][0], tmp_path / "bert")
    tokenizer(40).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match=re.escape(HOW)):
        transformers.pipeline("feature-extraction", model=str(tmp_path / "bert"))
    sentence_transformers = pytest.importorskip("sentence_transformers")
    with pytest.raises(ValueError, match=re.escape(HOW)):
        sentence_transformers.SentenceTransformer(str(tmp_path / "bert"))


def test_the_loader_and_the_writer_have_one_sentence() -> None:
    assert HOW == IMPORT + TRUST


def test_a_file_that_a_configuration_names_is_still_opened(tmp_path: Path) -> None:
    CASES["bert"].model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    named = config | {"transformers_weights": "other.safetensors"}
    (tmp_path / "config.json").write_text(json.dumps(named))
    load(tmp_path, CASES["bert"])
