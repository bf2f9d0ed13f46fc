"""What is written opens in peft with the right ranks, and merging gives peft's own bits."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

import rmtcli  # noqa: E402
from rmtcli.adapters import read_adapter, write_adapter  # noqa: E402
from rmtcli.errors import LayerError  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # peft's
    # The default token numbers of GPT-2's configuration exceed the small vocabulary.
    pytest.mark.filterwarnings("ignore:.*token_id.*:UserWarning"),
]
GPT2 = transformers.GPT2ForSequenceClassification
LLAMA = transformers.LlamaForCausalLM
#: Queries, keys and values are one square part more than a square matrix; the projection is square.
TARGETS = ["c_attn", "c_proj", "c_fc", "wte"]
Make = Callable[..., tuple[Path, Path]]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Writes a small GPT-2 for classes, and an adapter of it with weights other than the first."""
    folder = tmp_path_factory.mktemp("gpt2")
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": 40, "n_positions": 16}
    config = transformers.GPT2Config(**sizes, pad_token_id=0, num_labels=3)

    def make(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[Path, Path]:
        torch.manual_seed(0)
        GPT2(config).to(dtype).save_pretrained(folder / name)
        model = GPT2.from_pretrained(folder / name, dtype=dtype)
        options = {"r": 4, "lora_alpha": 7, "target_modules": TARGETS, "fan_in_fan_out": True} | {
            "modules_to_save": ["score"],
            "task_type": "SEQ_CLS",
            **options,
        }
        return folder / name, adapted(model, folder / f"{name}-adapter", options)

    return make


def adapted(model: Any, target: Path, options: dict[str, Any]) -> Path:
    """Write an adapter of a model with random factors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**options))
        for name, value in wrapped.named_parameters():
            if value.requires_grad:
                noise = 0.1 * torch.randn_like(value)
                value.data = value.data * (1 + noise) if "magnitude" in name else noise
        wrapped.save_pretrained(target)
    return target


def opened(base: Path, adapter: Path, kind: Any = GPT2, **options: Any) -> Any:
    """The base with the adapter, as peft opens them; a warning would be an error here."""
    return peft.PeftModel.from_pretrained(kind.from_pretrained(base, **options), adapter)


def same(first: Path, second: Path) -> list[str]:
    """The tensors of two directories that differ."""
    one, other = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def test_what_was_read_opens_again_with_equal_outputs(gpt2: Make, tmp_path: Path) -> None:
    patterns = {"rank_pattern": {"c_fc": 2}, "alpha_pattern": {r"mlp\.c_.*": 5}}
    base, adapter = gpt2("patterns", **patterns)
    read = read_adapter(adapter)
    names = {key: value for key, value in read.config.items() if key != "target_modules"}
    write_adapter(replace(read, config=names), tmp_path / "again")
    tokens = torch.arange(8)[None] + 1
    first, second = (
        opened(base, folder)(tokens).logits for folder in (adapter, tmp_path / "again")
    )
    assert torch.equal(first, second)


def test_a_resized_adapter_opens_with_its_own_ranks(gpt2: Make, tmp_path: Path) -> None:
    base, adapter = gpt2("resized")
    result = rmtcli.resize(adapter, tmp_path / "small", budget="45%")
    ranks = {x.layer.module: x.rank for x in result.layers}
    assert len(set(ranks.values())) > 1
    model = opened(base, tmp_path / "small")
    for name, module in model.base_model.model.named_modules():
        if name in ranks:
            assert getattr(module, "r", {}).get("default", 0) == ranks[name], name
    rmtcli.merge(base, tmp_path / "small", tmp_path / "merged")
    model.merge_and_unload().save_pretrained(tmp_path / "peft")
    assert not same(tmp_path / "merged", tmp_path / "peft")


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_merging_gives_the_bits_of_peft(
    gpt2: Make, tmp_path: Path, dtype: torch.dtype, dora: bool
) -> None:
    """Linear layers stored as in × out, an embedding, and a module that was trained whole."""
    base, adapter = gpt2(f"{dtype}-{dora}", dtype, use_dora=dora, use_rslora=dora)
    report = rmtcli.merge(base, adapter, tmp_path / "merged")
    opened(base, adapter, dtype=dtype).merge_and_unload().save_pretrained(tmp_path / "peft")
    assert not same(tmp_path / "merged", tmp_path / "peft")
    assert len(same(tmp_path / "merged", base)) == 6
    assert report.output is not None
    assert report.output.parameters == report.source.parameters


class Convolutions(torch.nn.Module):
    """Kernels of three shapes; one of them is a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = torch.nn.Conv2d(3, 5, 3)
        self.point = torch.nn.Conv2d(5, 4, 1)
        self.line = torch.nn.Conv1d(4, 6, 3)


def test_merged_kernels_have_the_bits_of_peft(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Convolutions()
    save_file(network.state_dict(), tmp_path / "base.safetensors")
    options = {"r": 2, "lora_alpha": 3, "target_modules": ["wide", "point", "line"]}
    adapter = adapted(network, tmp_path / "adapter", options)
    again = Convolutions()
    again.load_state_dict(load_file(tmp_path / "base.safetensors"))
    expected = peft.PeftModel.from_pretrained(again, adapter).merge_and_unload().state_dict()
    rmtcli.merge(tmp_path / "base.safetensors", adapter, tmp_path / "merged.safetensors")
    merged = load_file(tmp_path / "merged.safetensors")
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], expected[name]) for name in merged)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama whose head is its table of tokens, in several shards."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 40}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 16}
    config = transformers.LlamaConfig(**sizes, **heads, tie_word_embeddings=True)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("llama") / "base"
    LLAMA(config).save_pretrained(folder, max_shard_size="6KB")
    return folder


def test_shards_and_a_tied_head(llama: Path, tmp_path: Path) -> None:
    """A change of the table is one of the head, and every shard's tensors are found."""
    assert len(list(llama.glob("*.safetensors"))) > 2
    targets = {"r": 3, "target_modules": ["q_proj", "down_proj", "embed_tokens"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's, of the tied table
        adapter = adapted(LLAMA.from_pretrained(llama), tmp_path / "adapter", targets)
        expected = opened(llama, adapter, LLAMA).merge_and_unload()
    rmtcli.merge(llama, adapter, tmp_path / "merged")
    merged = LLAMA.from_pretrained(tmp_path / "merged")
    for name, value in expected.state_dict().items():
        assert torch.equal(value, merged.state_dict()[name]), name


def test_a_tied_head_cannot_be_changed_alone(llama: Path, tmp_path: Path) -> None:
    """In the file there is no such tensor, and the model would tie it again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        targets = {"r": 2, "target_modules": ["lm_head"]}
        adapter = adapted(LLAMA.from_pretrained(llama), tmp_path / "adapter", targets)
    with pytest.raises(LayerError, match=r"has no 'lm_head\.weight'.*cannot be changed alone"):
        rmtcli.merge(llama, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_tied_table_that_was_saved_twice_is_one(llama: Path, tmp_path: Path) -> None:
    """peft saves the head beside a table that was trained whole."""
    options = {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}
    adapter = adapted(LLAMA.from_pretrained(llama), tmp_path / "adapter", options)
    read = read_adapter(adapter)
    table = read.saved["model.embed_tokens.weight"]
    write_adapter(replace(read, saved={**read.saved, "lm_head.weight": table}), tmp_path / "both")
    rmtcli.merge(llama, tmp_path / "both", tmp_path / "merged")
    merged = LLAMA.from_pretrained(tmp_path / "merged")
    assert merged.lm_head.weight.detach().numpy().tobytes() == table.read().data.tobytes()


def test_a_resized_vocabulary_is_told(llama: Path, tmp_path: Path) -> None:
    model = LLAMA.from_pretrained(llama, tie_word_embeddings=False)
    model.save_pretrained(tmp_path / "untied")
    llama = tmp_path / "untied"
    model.resize_token_embeddings(43, mean_resizing=False)
    model.save_pretrained(tmp_path / "resized")
    tables = ["embed_tokens", "lm_head"]
    options = {"r": 2, "target_modules": ["q_proj"], "modules_to_save": tables}
    adapter = adapted(model, tmp_path / "adapter", options)
    with pytest.raises(LayerError, match=r"\(40, 16\).*\(43, 16\).*resize_token_embeddings"):
        rmtcli.merge(llama, adapter, tmp_path / "merged")
    rmtcli.merge(tmp_path / "resized", adapter, tmp_path / "merged")
    table = read_adapter(adapter).saved["model.embed_tokens.weight"].read()
    written = load_file(tmp_path / "merged" / "model.safetensors")["model.embed_tokens.weight"]
    assert written.numpy().tobytes() == table.data.tobytes()
