"""Small models of several architectures, dense and factored, as directories."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from scipy.linalg import qr
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    ViTConfig,
)

from rmtcli.integrations import rmtcli_loading

RANK = 5
#: The tokenizer's vocabulary.
WORDS = [f"w{i}" for i in range(90)]
#: Sizes that differ where they can, so that a transposed matrix does not fit.
_BERT = BertConfig(
    vocab_size=99,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=40,
)
_LLAMA = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 40,
}


def tokenizer(length: int) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=length
    )


@dataclass(frozen=True, slots=True)
class Case:
    """An architecture: its class, its Auto class, its configuration, and the layers to factor."""

    cls: str
    auto: str
    config: Any
    layers: str
    transposed: bool = False

    def model(self) -> PreTrainedModel:
        torch.manual_seed(0)
        model = getattr(transformers, self.cls)(self.config).eval()
        # Larger weights than a fresh model's: each layer must matter for the logits.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.2)
        return model

    def inputs(self) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        if self.cls.startswith("ViT"):
            return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)}
        tokens = torch.randint(5, 99, (2, 7), generator=generator)
        if self.cls.startswith("T5"):
            return {"input_ids": tokens, "decoder_input_ids": tokens[:, :4]}
        return {"input_ids": tokens}


#: Sizes of a T5.
T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
_DENSE = r"(query|key|value|dense)"
CASES = {
    "bert": Case("BertModel", "AutoModel", _BERT, _DENSE),
    "bert-head": Case(
        "BertForSequenceClassification", "AutoModelForSequenceClassification", _BERT, _DENSE
    ),
    "llama": Case("LlamaForCausalLM", "AutoModelForCausalLM", LlamaConfig(**_LLAMA), r"\w+_proj"),
    "gpt2": Case(
        "GPT2LMHeadModel",
        "AutoModelForCausalLM",
        GPT2Config(vocab_size=99, n_positions=40, n_embd=32, n_layer=2, n_head=4),
        r"(c_attn|c_proj|c_fc)",
        transposed=True,
    ),
    "t5": Case(
        "T5ForConditionalGeneration",
        "AutoModelForSeq2SeqLM",
        T5Config(**T5, decoder_start_token_id=0),
        r"(q|k|v|o|wi|wo)",
    ),
    "vit": Case(
        "ViTForImageClassification",
        "AutoModelForImageClassification",
        ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            image_size=16,
            patch_size=4,
        ),
        _DENSE,
    ),
    "mixtral": Case(
        "MixtralForCausalLM",
        "AutoModelForCausalLM",
        MixtralConfig(**_LLAMA, num_local_experts=3, num_experts_per_tok=2),
        r"(\w+_proj|w1|w2|w3)",
    ),
}


def logits(model: PreTrainedModel, case: Case) -> torch.Tensor:
    with torch.no_grad():
        output = model(**case.inputs())
    return (output.logits if "logits" in output else output.last_hidden_state).float()


def load(directory: Path, case: Case, **options: Any) -> PreTrainedModel:
    """Open a directory as a user does; no key may be missing, left over or of another shape."""
    auto = getattr(transformers, case.auto)
    model, info = auto.from_pretrained(directory, output_loading_info=True, **options)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return model


def write(case: Case, folder: Path) -> tuple[Path, Path]:
    """Write a directory with factored layers, and one with their products."""
    case.model().save_pretrained(folder / "original")
    leaves = {"c_attn", "c_proj", "c_fc"} if case.transposed else set()
    return factor(
        folder / "original",
        lambda module: bool(re.fullmatch(case.layers, module.rpartition(".")[2])),
        leaves,
    )


def factor(
    original: Path, wanted: Callable[[str], bool], transposed: Collection[str]
) -> tuple[Path, Path]:
    """Write a factored directory, and one with the products, from any directory.

    Every second layer is in the pivoted layout.

    Args:
        original: the dense directory.
        wanted: whether to factor a module, by its name.
        transposed: last parts of the names of layers whose weight is stored as in × out.
    """
    factored, product = (original.parent / name for name in ("factored", "product"))
    for target in (factored, product):
        shutil.copytree(original, target)
    tensors = load_file(original / "model.safetensors")
    small, dense, ranks, pivoted = dict(tensors), dict(tensors), {}, {}
    for name, weight in tensors.items():
        module, _, last = name.rpartition(".")
        if weight.ndim != 2 or last != "weight" or not wanted(module):
            continue
        is_transposed = module.rpartition(".")[2] in transposed
        right, left = _factors(weight.T if is_transposed else weight)
        del small[name]
        matrix = (left.double() @ right.double()).float()
        if len(ranks) % 2 and len(left) > len(right):  # else there is no row beside the pivot rows
            small |= _pivoted(module, left, right)
            pivoted[module] = len(left) - RANK
        else:
            small |= {f"{module}.0.weight": right, f"{module}.1.weight": left}
            if f"{module}.bias" in small:
                small[f"{module}.1.bias"] = small.pop(f"{module}.bias")
        dense[name] = matrix.T.contiguous() if is_transposed else matrix
        ranks[module] = len(right)
    assert len(pivoted) > 2
    save_file(small, factored / "model.safetensors", {"format": "pt"})
    save_file(dense, product / "model.safetensors", {"format": "pt"})
    mark(factored, ranks, pivoted=pivoted)
    return factored, product


def mark(directory: Path, ranks: dict[str, int], **changes: Any) -> None:
    """Record the factors in config.json, and copy the loader into the directory."""
    config = json.loads((directory / "config.json").read_text())
    kind = type(transformers.AutoConfig.for_model(config["model_type"])).__name__
    config["quantization_config"] = {
        "quant_method": "rmtcli",
        "version": 2,
        "ranks": ranks,
    } | changes
    config["auto_map"] = {"AutoConfig": f"rmtcli_loading.{kind}"}
    config["transformers_weights"] = rmtcli_loading.HOW
    (directory / "config.json").write_text(json.dumps(config))
    shutil.copy(rmtcli_loading.__file__, directory)


def _pivoted(module: str, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors of a layer in the pivoted layout."""
    left, right = left.double(), right.double()
    rows = torch.from_numpy(qr(left.numpy().T, pivoting=True)[2][:RANK].copy())
    others = torch.tensor([i for i in range(len(left)) if i not in rows])
    order = torch.empty(len(left), dtype=torch.int32)
    order[rows] = torch.arange(RANK, dtype=torch.int32)
    order[others] = torch.arange(RANK, len(left), dtype=torch.int32)
    return {
        f"{module}.pivot.weight": (left[rows] @ right).float(),
        f"{module}.rest.weight": (left[others] @ torch.linalg.inv(left[rows])).float(),
        f"{module}.order": order,
    }


def _factors(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    root = s[:RANK].sqrt()
    return (root[:, None] * vt[:RANK]).float().contiguous(), (
        u[:, :RANK] * root
    ).float().contiguous()
