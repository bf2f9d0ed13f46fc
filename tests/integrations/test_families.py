"""Many more model families: all their linear layers can be factored, loaded, saved, multiplied."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

transformers = pytest.importorskip("transformers")

import rmtcli.integrations.transformers  # noqa: E402, F401
from rmtcli.integrations.rmtcli_loading import HOW  # noqa: E402
from rmtcli.verification.inputs import run  # noqa: E402
from tests.integrations.factored import T5, factor  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TEXT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
CAUSAL = TEXT | {"num_key_value_heads": 2}
MIXED = CAUSAL | {"moe_intermediate_size": 24, "num_experts": 3, "num_experts_per_tok": 2}
IMAGE = {name: TEXT[name] for name in list(TEXT)[1:5]} | {"image_size": 16, "patch_size": 4}
PAIR = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}
BLOCKS = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4}

#: Class -> model type and configuration.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "AlbertModel": ("albert", TEXT | {"embedding_size": 24}),
    "BartForConditionalGeneration": ("bart", PAIR | {"vocab_size": 99}),
    "BloomForCausalLM": ("bloom", BLOCKS | {"hidden_size": 32}),
    "CLIPModel": ("clip", {"text_config": TEXT, "vision_config": IMAGE, "projection_dim": 24}),
    "DebertaV2Model": ("deberta-v2", TEXT),
    "DeepseekV3ForCausalLM": (
        "deepseek_v3",
        TEXT
        | {"num_key_value_heads": 4, "moe_intermediate_size": 24, "n_routed_experts": 4}
        | {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
        | {"q_lora_rank": 16, "kv_lora_rank": 16, "v_head_dim": 8}
        | {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8},
    ),
    "Dinov2Model": ("dinov2", IMAGE),
    "DistilBertModel": (
        "distilbert",
        {"vocab_size": 99, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
    ),
    "ElectraForSequenceClassification": ("electra", TEXT | {"embedding_size": 24}),
    "FalconForCausalLM": ("falcon", TEXT),
    "Gemma2ForCausalLM": ("gemma2", CAUSAL | {"head_dim": 8}),
    "GPTNeoXForCausalLM": ("gpt_neox", TEXT),
    "LlavaForConditionalGeneration": (
        "llava",
        {
            "text_config": CAUSAL | {"model_type": "llama"},
            "vision_config": IMAGE | {"model_type": "clip_vision_model", "projection_dim": 24},
            "image_token_index": 98,
        },
    ),
    "ModernBertModel": (
        "modernbert",
        TEXT | dict.fromkeys(("pad_token_id", "cls_token_id", "sep_token_id", "bos_token_id"), 1),
    ),
    "MPNetModel": ("mpnet", TEXT),
    "OlmoeForCausalLM": ("olmoe", MIXED),
    "OPTForCausalLM": ("opt", TEXT | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "OpenAIGPTLMHeadModel": ("openai-gpt", BLOCKS),
    "Phi3ForCausalLM": ("phi3", CAUSAL | {"pad_token_id": 0}),
    "Qwen2ForCausalLM": ("qwen2", CAUSAL),
    "Qwen2MoeForCausalLM": ("qwen2_moe", MIXED | {"shared_expert_intermediate_size": 24}),
    "Qwen3ForCausalLM": ("qwen3", CAUSAL | {"head_dim": 8}),
    "Qwen3MoeForCausalLM": ("qwen3_moe", MIXED | {"head_dim": 8}),
    "RobertaForMaskedLM": ("roberta", TEXT),
    "SiglipModel": (
        "siglip",
        {"text_config": TEXT | {"projection_size": 32}, "vision_config": IMAGE},
    ),
    "SwinModel": (
        "swin",
        {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "image_size": 16}
        | {"patch_size": 2, "window_size": 2},
    ),
    "SwitchTransformersForConditionalGeneration": (
        "switch_transformers",
        T5 | {"num_decoder_layers": 2, "num_experts": 3},
    ),
    "UMT5EncoderModel": ("umt5", T5),
    "ViTMAEModel": ("vit_mae", IMAGE),
    "Wav2Vec2Model": (
        "wav2vec2",
        {name: TEXT[name] for name in list(TEXT)[:5]}
        | {"conv_dim": [16, 16], "conv_stride": [5, 4], "conv_kernel": [10, 4]}
        | {"num_feat_extract_layers": 2}
        | {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
    ),
    "WhisperForConditionalGeneration": (
        "whisper",
        PAIR
        | {"vocab_size": 99, "max_source_positions": 50, "num_mel_bins": 20, "pad_token_id": 0}
        | {"decoder_start_token_id": 1, "bos_token_id": 1, "eos_token_id": 2},
    ),
}
#: Matrices that multiply no input, or choose among experts.
OTHERS = r"emb|wte|wpe|shared$|lm_head|relative|router|(^|\.)gate$|token|position"
TRANSPOSED = {"OpenAIGPTLMHeadModel": {"c_attn", "c_proj", "c_fc"}}


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_linear_layer_can_be_factored(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model_type, options = FAMILIES[kind]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **options)
    cls = getattr(transformers, kind)
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15)
    model.save_pretrained(tmp_path / "original")
    factored, product = factor(
        tmp_path / "original",
        lambda module: not re.search(OTHERS, module),
        TRANSPOSED.get(kind, set()),
    )
    model, info = cls.from_pretrained(factored, output_loading_info=True)
    dense, usual = cls.from_pretrained(product, output_loading_info=True)
    for name in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert set(info[name]) == set(usual[name])
    output, expected = run(model), run(dense)
    assert output is not None
    assert expected is not None
    # float32 rounds at 6e-8, in some dozen sums of 50 terms.
    assert (output[1] - expected[1]).abs().max() <= 1e-5 * expected[1].abs().max()
    model.save_pretrained(tmp_path / "again")
    before, after = (load_file(d / "model.safetensors") for d in (factored, tmp_path / "again"))
    assert before.keys() == after.keys()
    model.dequantize()
    dequantized = run(model)
    assert dequantized is not None
    # Last, because it takes the loader away: a program without it is refused.
    request.getfixturevalue("unknown")
    for opener in (transformers.AutoModel, cls):
        with pytest.raises(ValueError, match=re.escape(HOW)):
            opener.from_pretrained(factored)
    assert (dequantized[1] - expected[1]).abs().max() <= 1e-5 * expected[1].abs().max()
