"""Inputs that need no file: random tokens of a directory's vocabulary, and normal noise.

Nothing here imports torch. Every call gives the same inputs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from rmtcli.checkpoint.huggingface.config import read_object
from rmtcli.errors import EvaluationError
from rmtcli.evaluation.data import Samples
from rmtcli.evaluation.tasks import CausalLM, ImageClassification, Task
from rmtcli.evaluation.text import MASK, random_texts, shares
from rmtcli.files import CONFIG

#: Samples of a directory's network, and tokens of each; samples of a chain, which costs less.
LINES, TOKENS, ROWS = 32, 32, 2000
#: Sides of images, or lengths of sounds, that a convolutional network is tried with.
SIDES = (32, 28, 64, 96, 128, 224, 1024)
SEED = 0


def made_for(directory: Path, task: Task) -> tuple[Samples, str]:
    """Inputs for the network of a Hugging Face directory, and what they are in words.

    Raises:
        EvaluationError: the directory has no tokenizer, or does not say how large images are.
    """
    if isinstance(task, ImageClassification):
        return made_of((LINES, *_image_shape(directory)))
    samples = random_texts(directory, np.random.default_rng(SEED), LINES, TOKENS)
    if isinstance(task, CausalLM):  # reads no segments
        samples = replace(samples, inputs=samples.inputs[:, : MASK + 1])
    return samples, "tokens of its vocabulary, drawn ∝ 1/(id + 10)"


def made_of(shape: tuple[int, ...], vocabulary: int = 0) -> tuple[Samples, str]:
    """Samples of standard normal noise or of random tokens, and what they are in words.

    Args:
        shape: shape of the inputs, samples first.
        vocabulary: draw token numbers below it; 0 for noise.
    """
    rng = np.random.default_rng(SEED)
    if vocabulary:
        tokens = rng.choice(vocabulary, shape, p=shares(np.arange(vocabulary)))
        return Samples(Path("random tokens"), tokens, None, scaled=False), "random tokens"
    noise = rng.standard_normal(shape, np.float32)
    sides = "" if len(shape) == 2 else f" of shape {'×'.join(map(str, shape[1:]))}"
    return Samples(Path("normal noise"), noise, None, scaled=False), f"normal noise{sides}"


def _image_shape(directory: Path) -> tuple[int, int, int]:
    config = read_object(directory / CONFIG)
    size, channels = config.get("image_size"), config.get("num_channels", 3)
    height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
    shape = tuple(n for n in (channels, height, width) if isinstance(n, int) and 0 < n < 10_000)
    if len(shape) != 3:
        raise EvaluationError(f"{directory}: its {CONFIG} does not say how large images are")
    return shape
