"""Directories written by ``prune`` and opened by transformers equal those of ``densify``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

import rmtcli
import rmtcli.integrations.transformers

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 120,
}
T5 = {"d_model": 64, "d_ff": 96, "num_layers": 2, "num_heads": 4, "d_kv": 16, "vocab_size": 120}
#: class, configuration, and layers that are split in two
MODELS = {
    "llama": ("LlamaForCausalLM", SIZES, 14),
    "tied llama": ("LlamaForCausalLM", SIZES | {"tie_word_embeddings": True}, 14),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 120}, 8),
    "t5": ("T5ForConditionalGeneration", T5, 32),
    "mixtral": (
        "MixtralForCausalLM",
        SIZES | {"num_key_value_heads": 2, "num_local_experts": 4},
        32,
    ),
    "bert": ("BertForSequenceClassification", SIZES, 13),
    "vit": ("ViTForImageClassification", SIZES | {"image_size": 32, "patch_size": 8}, 12),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_pruned_directory_loads_and_equals_its_product(tmp_path: Path, name: str) -> None:
    kind, sizes, layers = MODELS[name]
    cls = getattr(transformers, kind)
    torch.manual_seed(0)
    cls(cls.config_class(**sizes)).save_pretrained(tmp_path / "m")
    report = rmtcli.prune(tmp_path / "m", tmp_path / "small", keep="rank:k=8")
    assert len(report.pruned) == layers
    rmtcli.densify(tmp_path / "small", tmp_path / "dense")
    small, info = cls.from_pretrained(tmp_path / "small", output_loading_info=True)
    assert not any(info.values()), info
    dense = cls.from_pretrained(tmp_path / "dense")
    tokens = torch.arange(3, 13)[None]
    inputs = {"pixel_values": torch.randn(1, 3, 32, 32)} if name == "vit" else {"input_ids": tokens}
    if name == "t5":
        inputs["decoder_input_ids"] = tokens
    with torch.no_grad():
        a, b = small.eval()(**inputs).logits, dense.eval()(**inputs).logits
    # Products and their order of summation are rounded to float32; 1e-5 of the largest is ample.
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(b.abs().max()))
