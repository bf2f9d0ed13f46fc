"""The first lines of docs/api.md, as they stand, on networks of several kinds."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModel, BertConfig, LlamaConfig, LlamaForCausalLM

import rmtcli
from tests.conftest import ROOT
from tests.integrations.factored import WORDS, tokenizer

LINES = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/api.md").read_text(), re.S | re.M)[0]

TEXTS = [" ".join(WORDS[i % 80 : i % 80 + 9]) for i in range(60)]


class Residual(nn.Module):
    """Two blocks with norms and skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(20, 128)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(128), nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 128))
            for _ in range(2)
        )
        self.head = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)  # type: ignore[no-any-return]


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def sizes(width: int) -> dict[str, int]:
    return {
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    }


def bert() -> nn.Module:
    return AutoModel.from_config(BertConfig(**sizes(192)))  # type: ignore[no-any-return]


def llama() -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(**sizes(128), num_key_value_heads=2))


def sentence_transformer(folder: Path) -> Any:
    sentences = pytest.importorskip("sentence_transformers")
    bert().save_pretrained(folder / "dense")
    tokenizer(30).save_pretrained(folder / "dense")
    return sentences.SentenceTransformer(str(folder / "dense"), device="cpu")


def tokens() -> list[dict[str, torch.Tensor]]:
    ids = torch.randint(5, 97, (60, 9), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": part} for part in ids.split(20)]


def samples() -> list[tuple[torch.Tensor, torch.Tensor]]:
    x = torch.randn(60, 20, generator=torch.Generator().manual_seed(0))
    return [(part, part.argmax(1)) for part in x.split(20)]


#: Kind -> (what makes the network, what makes the loader).
KINDS: dict[str, tuple[Callable[[Path], Any], Callable[[], Any]]] = {
    "mlp": (lambda _: mlp(), samples),
    "residual": (lambda _: Residual(), samples),
    "bert": (lambda _: bert(), tokens),
    "llama": (lambda _: llama(), tokens),
    "sentence-transformer": (sentence_transformer, lambda: TEXTS),
}


#: Kinds whose lines take a minute on a busy machine.
SLOW = ("bert", "llama", "sentence-transformer")


@pytest.mark.parametrize(
    "kind", [pytest.param(x, marks=pytest.mark.slow if x in SLOW else ()) for x in KINDS]
)
def test_the_first_lines_of_the_page_run_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    make, load = KINDS[kind]
    model, loader = make(tmp_path), load()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = {"rmtcli": rmtcli, "model": model, "loader": loader, "val": None}
    names |= {"accuracy": lambda network, _: 90.0, "Net": lambda: make(tmp_path / "new")}
    for line in LINES.strip().splitlines():
        exec(compile(line, "docs/api.md", "exec"), names)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    small, dense = names["small"], names["dense"]
    dense_bytes, small_bytes = small.report.tensor_bytes
    assert small_bytes <= 0.1 * dense_bytes
    assert (tmp_path / "report.html").is_file()
    assert {name: value.shape for name, value in dense.state_dict().items()} == {
        name: value.shape for name, value in before.items()
    }
    loaded = names["model"].state_dict()
    for name, value in small.state_dict().items():
        torch.testing.assert_close(loaded[name], value)
