"""Made-up inputs for any transformers model, and the output that the model gives for them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

#: Tokens of the made-up text, and samples of one second of sound at 16 kHz.
_TOKENS, _SOUND_SAMPLES = 16, 16_000


def example_inputs(config: Any) -> dict[str, Tensor]:
    """One made-up input for each argument name under which transformers models take inputs.

    Args:
        config: the model's configuration, which gives vocabulary size, image size and so on.

    Returns:
        Tensors by argument name; equal configurations give equal tensors.
    """
    generator = torch.Generator().manual_seed(0)
    text, vision = config.get_text_config(), getattr(config, "vision_config", config)
    inputs = {"input_values": torch.randn(1, _SOUND_SAMPLES, generator=generator)}
    if isinstance(vocabulary := getattr(text, "vocab_size", None), int):
        most = getattr(text, "max_position_embeddings", None)
        length = min(_TOKENS, most) if isinstance(most, int) and most > 0 else _TOKENS
        tokens = torch.randint(0, vocabulary, (1, length), generator=generator)
        inputs |= {"input_ids": tokens, "decoder_input_ids": tokens[:, : length // 2]}
    if size := getattr(vision, "image_size", None):
        height, width = (size, size) if isinstance(size, int) else size
        channels = getattr(vision, "num_channels", 3)
        inputs["pixel_values"] = torch.randn(1, channels, height, width, generator=generator)
    if bins := getattr(config, "num_mel_bins", None):
        frames = 2 * getattr(config, "max_source_positions", 1500)
        inputs["input_features"] = torch.randn(1, bins, frames, generator=generator)
    return inputs


def run(model: Any) -> tuple[str, Tensor] | None:
    """Run a model on made-up inputs.

    Args:
        model: a transformers model, in evaluation mode.

    Returns:
        Name and value of the output, ``logits`` if the model has any; None if no made-up input
        suits the model.
    """
    accepted = inspect.signature(model.forward).parameters
    examples = {
        name: value for name, value in example_inputs(model.config).items() if name in accepted
    }
    decoder = {"decoder_input_ids"} if model.config.is_encoder_decoder else set()
    for wanted in ({model.main_input_name} | decoder, examples.keys()):
        inputs = {
            name: value.to(model.dtype) if value.is_floating_point() else value
            for name, value in examples.items()
            if name in wanted
        }
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # some models draw masks even in evaluation mode
                output = model(**inputs)
        except Exception:  # a model may raise anything for inputs that do not suit it
            continue
        named = {k: v for k, v in output.items() if isinstance(v, Tensor) and v.is_floating_point()}
        for name in ("logits", "last_hidden_state", *named):
            if name in named:
                return name, named[name]
    return None
