"""Inputs that need no file: random tokens of a directory's vocabulary, and normal noise.

Nothing here imports torch. Every call gives the same inputs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rmtcli.checkpoint.huggingface.config import read_object
from rmtcli.errors import EvaluationError
from rmtcli.evaluation.data import Samples
from rmtcli.evaluation.tasks import ImageClassification, Task
from rmtcli.evaluation.text import random_texts
from rmtcli.files import CONFIG

#: Samples of a directory's network, and tokens of each; samples of a chain, which costs less.
LINES, TOKENS, ROWS = 32, 32, 2000
SEED = 0


def made_for(directory: Path, task: Task) -> tuple[Samples, str]:
    """Inputs for the network of a Hugging Face directory, and what they are in words.

    Raises:
        EvaluationError: the directory has no tokenizer, or does not say how large images are.
    """
    if isinstance(task, ImageClassification):
        return made_of((LINES, *_image_shape(directory))), "normal noise as images"
    samples = random_texts(directory, np.random.default_rng(SEED), LINES, TOKENS)
    return samples, "tokens of its vocabulary, drawn ∝ 1/(id + 10)"


def made_of(shape: tuple[int, ...]) -> Samples:
    """Samples of standard normal noise, of a shape (samples, …)."""
    noise = np.random.default_rng(SEED).standard_normal(shape, np.float32)
    return Samples(Path("normal noise"), noise, None, scaled=False)


def _image_shape(directory: Path) -> tuple[int, int, int]:
    config = read_object(directory / CONFIG)
    size, channels = config.get("image_size"), config.get("num_channels", 3)
    height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
    shape = tuple(n for n in (channels, height, width) if isinstance(n, int) and 0 < n < 10_000)
    if len(shape) != 3:
        raise EvaluationError(f"{directory}: its {CONFIG} does not say how large images are")
    return shape
