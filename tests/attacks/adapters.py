"""Adapters whose configurations, names or tensors attack."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.adapters.made import (
    CONFIG,
    PREFIX,
    kohya_tensors,
    lora,
    pair,
    peft_directory,
    two_layers,
)
from tests.attacks import attack
from tests.attacks.others import Payload

_RESIZE = "resize a --keep rank:k=2 -o out"
_CONFIG = "a/adapter_config.json"


@attack("adapter: a pickle that runs a command", named="a/adapter_model.bin")
def _pickle(folder: Path) -> str:
    model = peft_directory(folder / "a", two_layers())
    (model / "adapter_model.safetensors").unlink()
    torch.save({f"{PREFIX}q.lora_A.weight": Payload()}, model / "adapter_model.bin")
    return _RESIZE


for _name, _entry in {
    "a pattern that never ends": {"rank_pattern": {"(a+)+(.*)*b": 4}},
    "a pattern of many repetitions": {"alpha_pattern": {".*.*.*.*.*.*x": 4}},
    "a million patterns' worth of text": {"rank_pattern": {"a" * 1_000_000: 4}},
    "a rank beyond all numbers": {"r": 10**400},
    "a scale beyond all numbers": {"lora_alpha": 1e400},
    "a list for a name": {"peft_type": ["LORA"]},
    "patterns that are a text": {"rank_pattern": "q"},
}.items():

    @attack(f"adapter: {_name}", named=_CONFIG)
    def _config(folder: Path, entry: dict[str, Any] = _entry) -> str:
        peft_directory(folder / "a", two_layers(), CONFIG | entry)
        return _RESIZE


@attack("adapter: a configuration a hundred thousand deep", named=_CONFIG)
def _deep(folder: Path) -> str:
    (peft_directory(folder / "a", two_layers()) / "adapter_config.json").write_text("[" * 100_000)
    return _RESIZE


@attack("adapter: a pipe for a configuration", named=_CONFIG)
def _pipe(folder: Path) -> str:
    config = peft_directory(folder / "a", two_layers()) / "adapter_config.json"
    config.unlink()
    os.mkfifo(config)
    return _RESIZE


@attack("adapter: a name that writes to the terminal", code=0)
def _name_of_a_module(folder: Path) -> str:
    peft_directory(folder / "a", lora("q\x1b]0;owned\x07\n", *pair(12, 10)))
    return _RESIZE


@attack("adapter: modules by a name that leaves the folder", code=0)
def _outside(folder: Path) -> str:
    peft_directory(folder / "a", lora("../../x", *pair(12, 10)))
    return _RESIZE


@attack("adapter: a rank far above its sides", code=0)
def _wide(folder: Path) -> str:
    tensors = lora("q", *pair(2, 2, 200_000))
    peft_directory(folder / "a", tensors, CONFIG | {"r": 200_000})
    return _RESIZE


@attack("adapter: kohya's tensors of other kinds", named="a.safetensors")
def _other(folder: Path) -> str:
    save_file(kohya_tensors(x__hada_w1_a=torch.ones(2, 2)), folder / "a.safetensors")
    return "merge a.safetensors a.safetensors -o out.safetensors"
