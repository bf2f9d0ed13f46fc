"""Something to feed any model of transformers with, and the number that comes out."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

#: Tokens of the made-up text; one second of sound at 16 kHz.
_LENGTH, _SAMPLES = 16, 16_000


def examples(config: Any) -> dict[str, Tensor]:
    """One made-up input for each name under which models of transformers take one.

    Args:
        config: the model's configuration, which knows vocabulary, image size and so on.

    Returns:
        Tensors by argument; the same for equal configurations.
    """
    source = torch.Generator().manual_seed(0)
    text, vision = config.get_text_config(), getattr(config, "vision_config", config)
    made = {"input_values": torch.randn(1, _SAMPLES, generator=source)}
    if isinstance(vocabulary := getattr(text, "vocab_size", None), int):
        most = getattr(text, "max_position_embeddings", None)
        length = min(_LENGTH, most) if isinstance(most, int) and most > 0 else _LENGTH
        tokens = torch.randint(0, vocabulary, (1, length), generator=source)
        made |= {"input_ids": tokens, "decoder_input_ids": tokens[:, : length // 2]}
    if size := getattr(vision, "image_size", None):
        height, width = (size, size) if isinstance(size, int) else size
        channels = getattr(vision, "num_channels", 3)
        made["pixel_values"] = torch.randn(1, channels, height, width, generator=source)
    if bins := getattr(config, "num_mel_bins", None):
        frames = 2 * getattr(config, "max_source_positions", 1500)
        made["input_features"] = torch.randn(1, bins, frames, generator=source)
    return made


def run(model: Any) -> tuple[str, Tensor] | None:
    """What a model makes of its example.

    Args:
        model: a model of transformers, in evaluation mode.

    Returns:
        Name and value of the output, logits if it has any; None if no example fits the model.
    """
    taken = inspect.signature(model.forward).parameters
    made = {name: value for name, value in examples(model.config).items() if name in taken}
    decoder = {"decoder_input_ids"} if model.config.is_encoder_decoder else set()
    for wanted in ({model.main_input_name} | decoder, made.keys()):
        inputs = {
            name: value.to(model.dtype) if value.is_floating_point() else value
            for name, value in made.items()
            if name in wanted
        }
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # some models draw masks in evaluation mode too
                output = model(**inputs)
        except Exception:  # whatever a model raises for inputs that are not its own
            continue
        named = {k: v for k, v in output.items() if isinstance(v, Tensor) and v.is_floating_point()}
        for name in ("logits", "last_hidden_state", *named):
            if name in named:
                return name, named[name]
    return None
