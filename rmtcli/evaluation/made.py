"""Inputs that need no file: random tokens of a directory's vocabulary, and normal noise.

Nothing here imports torch. Every call gives the same inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rmtcli.calibration import SOURCES, MadeInputs, Prose, RandomTokens
from rmtcli.checkpoint.huggingface.config import read_object
from rmtcli.errors import EvaluationError, UsageError
from rmtcli.evaluation.data import Samples
from rmtcli.evaluation.tasks import CausalLM, ImageClassification, Task
from rmtcli.evaluation.text import MASK, random_texts, samples_of
from rmtcli.evaluation.vocabulary import by_rank
from rmtcli.files import CONFIG

#: Samples of a directory's network, and tokens of each; samples of a chain, which costs less.
LINES, TOKENS, ROWS = 32, 32, 2000
#: Sides of images, or lengths of sounds, that a convolutional network is tried with.
SIDES = (32, 28, 64, 96, 128, 224, 1024)
SEED = 0
#: Mean number of tokens that are drawn for a random text.
MEAN = 24


def made_for(directory: Path, task: Task) -> tuple[Samples, str]:
    """Inputs for the network of a Hugging Face directory, and what they are in words.

    Raises:
        EvaluationError: the directory has no tokenizer, or does not say how large images are.
    """
    if isinstance(task, ImageClassification):
        return made_of((LINES, *_image_shape(directory)))
    return made_samples(
        directory, task, RandomTokens(LINES, SEED)
    ), "random tokens of its vocabulary"


def made_samples(directory: Path, task: Task, inputs: MadeInputs) -> Samples:
    """Texts that are made, as the network of a Hugging Face directory reads them.

    Raises:
        UsageError: the network reads no text.
        EvaluationError: the directory has no tokenizer, or one without ordinary tokens; or
            sentences are not installed.
    """
    name = SOURCES.spell(inputs).partition(":")[0]
    if not reads_text(task):
        raise UsageError(
            f"{directory}: --calib {name} is for a Hugging Face directory whose network reads "
            "text: give a file"
        )
    if isinstance(inputs, Prose):
        samples = samples_of(directory, inputs.texts())
    else:
        rng = np.random.default_rng(inputs.seed)
        samples = random_texts(directory, rng, inputs.lines, MEAN)
    if isinstance(task, CausalLM):  # reads no segments
        samples = replace(samples, inputs=samples.inputs[:, : MASK + 1])
    return replace(samples, path=Path(name))


def joined(samples: Sequence[Samples]) -> Samples:
    """Samples of several sources together, without targets; one source stays as it is.

    The samples of a source that has fewer than another are repeated, so that a few lines of real
    text count about as much as many that are made.
    """
    if len(samples) == 1:
        return samples[0]
    most = max(len(part.inputs) for part in samples)
    longest = max(part.inputs.shape[-1] for part in samples)
    fields = min(part.inputs.shape[1] for part in samples)
    padded = [
        np.pad(part.inputs[:, :fields], ((0, 0), (0, 0), (0, longest - part.inputs.shape[-1])))
        for part in samples
    ]
    inputs = np.concatenate([np.repeat(rows, max(1, most // len(rows)), axis=0) for rows in padded])
    order = np.argsort(inputs[:, MASK].sum(1), kind="stable")
    path = Path("+".join(str(part.path) for part in samples))
    return Samples(path, inputs[order], None, scaled=False)


def reads_text(task: Task) -> bool:
    """Whether a task is one of a directory's network, and its samples are texts."""
    return bool(task.auto) and not isinstance(task, ImageClassification)


def made_of(shape: tuple[int, ...], vocabulary: int = 0) -> tuple[Samples, str]:
    """Samples of standard normal noise or of random tokens, and what they are in words.

    Args:
        shape: shape of the inputs, samples first.
        vocabulary: draw token numbers below it; 0 for noise.
    """
    rng = np.random.default_rng(SEED)
    if vocabulary:
        tokens = rng.choice(vocabulary, shape, p=by_rank(np.arange(vocabulary)))
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
