"""Small adapters for tests, as PEFT and sd-scripts write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

PREFIX = "base_model.model."
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q", "v"]}


def pair(out: int, inputs: int, rank: int = 4, *, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """B, out × rank, and A, rank × inputs."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (out, rank), (rank, inputs)
    left, right = (torch.randn(shape, generator=generator) for shape in shapes)
    return left, right


def lora(name: str, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
    """The two tensors of a module, by PEFT's names."""
    return {
        f"{PREFIX}{name}.lora_A.weight": right.clone(),
        f"{PREFIX}{name}.lora_B.weight": left.clone(),
    }


def two_layers() -> dict[str, torch.Tensor]:
    """Two square layers of rank 4."""
    return lora("layers.0.q", *pair(12, 10)) | lora("layers.0.v", *pair(8, 10, seed=1))


def peft_directory(
    folder: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any] = CONFIG
) -> Path:
    """A directory of PEFT."""
    folder.mkdir(exist_ok=True)
    save_file(dict(tensors), folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(dict(config)))
    return folder


def kohya_tensors(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """A linear layer and a convolution; parts can be replaced, or left out by None."""
    left, right = pair(12, 10)
    kernel = torch.randn((4, 3, 3, 3), generator=torch.Generator().manual_seed(2))
    tensors: dict[str, torch.Tensor | None] = {
        "lora_unet_a_to_q.lora_down.weight": right,
        "lora_unet_a_to_q.lora_up.weight": left,
        "lora_unet_a_to_q.alpha": torch.tensor(2.0),
        "lora_unet_conv.lora_down.weight": kernel,
        "lora_unet_conv.lora_up.weight": left[:, :, None, None].clone(),
        "lora_unet_conv.alpha": torch.tensor(4.0),
    } | {f"lora_unet_{name.replace('__', '.')}": x for name, x in changes.items()}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def kohya_file(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """A file of sd-scripts."""
    metadata = {"ss_network_dim": "4", "ss_network_alpha": "2", "sshs_model_hash": "0", "ss_x": "y"}
    save_file(dict(tensors), path, metadata)
    return path
