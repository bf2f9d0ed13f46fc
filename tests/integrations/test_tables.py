"""Tables of tokens as factors in transformers models, with all heads and tables tied to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

transformers = pytest.importorskip("transformers")

import rmtcli  # noqa: E402
import rmtcli.integrations.transformers  # noqa: E402
from rmtcli.checkpoint import open_checkpoint  # noqa: E402
from rmtcli.evaluation.pretrained import Pretrained  # noqa: E402
from rmtcli.evaluation.tasks import CausalLM  # noqa: E402
from rmtcli.integrations import rmtcli_loading  # noqa: E402
from rmtcli.layers import Layer, find_layers  # noqa: E402
from rmtcli.running.modules import modules_of  # noqa: E402
from rmtcli.verification.directory import open_factored, write_products  # noqa: E402
from rmtcli.verification.inputs import run  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

TOKENS, RANK = 99, 6
TEXT = {
    "vocab_size": TOKENS,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
PAIR = {"d_model": 32, "vocab_size": TOKENS, "scale_embedding": True} | {
    f"{side}_{name}": number
    for side in ("encoder", "decoder")
    for name, number in {"layers": 1, "attention_heads": 4, "ffn_dim": 48}.items()
}
#: Class -> model type, configuration, the table, and the number of modules that use it.
MODELS: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "BertForMaskedLM": ("bert", TEXT, "bert.embeddings.word_embeddings", 2),
    "GPT2LMHeadModel": (
        "gpt2",
        {"vocab_size": TOKENS, "n_embd": 32, "n_layer": 1, "n_head": 4},
        "transformer.wte",
        2,
    ),
    "LlamaForCausalLM": ("llama", TEXT, "model.embed_tokens", 1),
    "T5ForConditionalGeneration": (
        "t5",
        {"vocab_size": TOKENS, "d_model": 32, "d_kv": 8, "d_ff": 48}
        | {"num_layers": 1, "num_heads": 4},
        "shared",
        4,
    ),
    "BartForConditionalGeneration": ("bart", PAIR, "model.shared", 4),
}


def saved(kind: str, folder: Path) -> Any:
    """A model whose table is of low rank, and its directory."""
    model_type, options, table, _ = MODELS[kind]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **options)
    model = getattr(transformers, kind)(config).eval()
    weight = model.get_submodule(table).weight
    with torch.no_grad():
        weight.copy_(torch.randn(TOKENS, RANK) @ torch.randn(RANK, weight.shape[1]) / RANK)
    model.save_pretrained(folder)
    return model


def prune(folder: Path, table: str) -> rmtcli.Report:
    selection = rmtcli.Selection(include=[f"{table}.weight"], embeddings=True)
    small = folder.with_name("small")
    return rmtcli.prune(folder, small, keep=f"rank:k={RANK}", selection=selection)


def outputs(model: Any) -> torch.Tensor:
    result = run(model.eval())
    assert result is not None
    return result[1]


@pytest.mark.parametrize("kind", MODELS)
def test_a_table_and_all_that_is_tied_to_it_are_factored(kind: str, tmp_path: Path) -> None:
    table, users = MODELS[kind][2:]
    dense = saved(kind, tmp_path / "a")
    report = prune(tmp_path / "a", table)
    model, info = type(dense).from_pretrained(tmp_path / "small", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    split = [x for x in model.modules() if isinstance(x, rmtcli_loading.SplitTable)]
    assert len(split) == users
    saving = dense.num_parameters() - model.num_parameters()
    assert saving == report.parameters[0] - report.parameters[1]
    expected = outputs(dense)
    torch.testing.assert_close(outputs(model), expected, rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path / "again")
    again = type(dense).from_pretrained(tmp_path / "again")
    torch.testing.assert_close(outputs(again), outputs(model))
    whole = again.dequantize()
    torch.testing.assert_close(outputs(whole), expected, rtol=1e-4, atol=1e-4)
    assert whole.num_parameters() == dense.num_parameters()
    directory = open_factored(tmp_path / "small")
    write_products(directory, tmp_path / "product", set())
    product = type(dense).from_pretrained(tmp_path / "product")
    torch.testing.assert_close(outputs(product), expected, rtol=1e-4, atol=1e-4)


def test_a_head_of_its_own_is_kept_where_the_configuration_ties_it(tmp_path: Path) -> None:
    """transformers does not tie weights that differ, whatever the configuration says."""
    saved("GPT2LMHeadModel", tmp_path / "a")
    file = tmp_path / "a" / "model.safetensors"
    state = load_file(file) | {"lm_head.weight": torch.randn(TOKENS, 32)}
    save_file(state, file, {"format": "pt"})
    dense = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "a")
    prune(tmp_path / "a", "transformer.wte")
    entry = json.loads((tmp_path / "small" / "config.json").read_text())["quantization_config"]
    assert entry["tables"] == {"transformer.wte": ["lm_head"]}
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "small")
    torch.testing.assert_close(outputs(model), outputs(dense), rtol=1e-4, atol=1e-4)
    assert type(model.lm_head) is torch.nn.Linear


def check_gpt2(directory: Path, dense: Any) -> None:
    """Load a directory; every tensor has its place, and the outputs are the dense network's."""
    model, info = transformers.GPT2LMHeadModel.from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(outputs(model), outputs(dense), rtol=1e-4, atol=1e-4)


def test_a_pytorch_file_with_both_names_is_stored_once(tmp_path: Path) -> None:
    dense = saved("GPT2LMHeadModel", tmp_path / "a")
    torch.save(dense.state_dict(), tmp_path / "a" / "pytorch_model.bin")
    (tmp_path / "a" / "model.safetensors").unlink()
    report = prune(tmp_path / "a", "transformer.wte")
    assert report.parameters[0] - report.parameters[1] == TOKENS * 32 - RANK * (TOKENS + 32)
    check_gpt2(tmp_path / "small", dense)


def test_equal_copies_are_one_table(tmp_path: Path) -> None:
    """The file may hold the head as well, with the bytes of the table."""
    dense = saved("GPT2LMHeadModel", tmp_path / "a")
    file = tmp_path / "a" / "model.safetensors"
    state = load_file(file)
    save_file(state | {"lm_head.weight": state["transformer.wte.weight"].clone()}, file,
              {"format": "pt"})  # fmt: skip
    prune(tmp_path / "a", "transformer.wte")
    check_gpt2(tmp_path / "small", dense)


def test_a_wrong_list_of_tables_is_refused(tmp_path: Path) -> None:
    saved("LlamaForCausalLM", tmp_path / "a")
    prune(tmp_path / "a", "model.embed_tokens")
    file = tmp_path / "small" / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"]["tables"] = {"lm_head": []}
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="'tables' under quantization_config"):
        transformers.LlamaForCausalLM.from_pretrained(tmp_path / "small")


@pytest.mark.parametrize("kind", MODELS)
def test_calibration_knows_all_that_is_tied_to_a_table(kind: str, tmp_path: Path) -> None:
    table, users = MODELS[kind][2:]
    model, checkpoint = saved(kind, tmp_path / "a"), open_checkpoint(tmp_path / "a")
    selection = rmtcli.Selection(include=[f"{table}.weight"], embeddings=True)
    layers = [item for item in find_layers(checkpoint, selection) if isinstance(item, Layer)]
    network = Pretrained(model, CausalLM(), None, segments=False)
    modules = modules_of(network, checkpoint, layers)[f"{table}.weight"]
    weights = {network.get_submodule(name).weight for name in modules}
    assert weights == {model.get_submodule(table).weight}
    assert len(modules) == users
