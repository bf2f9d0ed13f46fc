"""Inputs that need no file: random tokens of a directory's vocabulary, and normal noise.

Nothing here imports torch. Every call gives the same inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rmtcli.calibration import SOURCES, MadeInputs, Prose, RandomTokens
from rmtcli.checkpoint.huggingface.config import about
from rmtcli.errors import EvaluationError, UsageError
from rmtcli.evaluation.data import Samples
from rmtcli.evaluation.harness import Harness
from rmtcli.evaluation.tasks import ImageClassification, Task, of_texts
from rmtcli.evaluation.text import MASK, samples_of
from rmtcli.evaluation.vocabulary import by_rank, frequencies
from rmtcli.files import CONFIG
from rmtcli.options import option

#: Samples of a directory's network, and tokens of each; samples of a chain, which costs less.
LINES, TOKENS, ROWS = 32, 32, 2000
#: Sides of images, or lengths of sounds, that a convolutional network is tried with.
SIDES = (32, 28, 64, 96, 128, 224, 1024)
SEED = 0
#: Share of the words of a random text that a comma follows.
COMMAS = 0.08
#: A text read again may have more tokens than were drawn; it is cut at so many times the mean.
MOST = 4
#: Mean number of tokens that are drawn for a random text.
MEAN = 24


def made_for(harness: Harness) -> tuple[Samples, str]:
    """Inputs for a network of transformers, and what they are in words.

    Raises:
        EvaluationError: the directory has no tokenizer, or does not say how large images are.
    """
    if isinstance(harness.task, ImageClassification):
        return made_of((LINES, *_image_shape(harness)))
    return made_samples(harness, RandomTokens(LINES, SEED)), "random tokens of its vocabulary"


def made_samples(harness: Harness, inputs: MadeInputs) -> Samples:
    """Texts that are made, as a network of transformers reads them.

    Without a tokenizer, token numbers are drawn from the whole vocabulary.

    Raises:
        UsageError: the network reads no text, or sentences need a tokenizer.
        EvaluationError: the directory has no tokenizer, or one without ordinary tokens; or
            sentences are not installed.
    """
    path, task = harness.checkpoint.path, harness.task
    name = SOURCES.spell(inputs).partition(":")[0]
    if not reads_text(task):
        raise UsageError(
            f"{path}: {option('calib', name)} is for a Hugging Face directory whose network reads "
            "text: give a file"
        )
    rng, tokenizer = np.random.default_rng(inputs.seed), harness.tokenizer()
    if isinstance(inputs, Prose):
        if tokenizer is None:
            raise UsageError(
                f"{path}: has no tokenizer of its own: {option('calib', 'prose')} needs one"
            )
        samples = samples_of(tokenizer, path, inputs.texts())
    elif tokenizer is None:
        samples = _random_tokens(harness, rng, inputs.lines)
    else:
        samples = random_texts(tokenizer, path, rng, inputs.lines, MEAN)
    return replace(of_texts(samples, task), path=Path(name))


def random_texts(
    tokenizer: Any, path: Path, rng: np.random.Generator, count: int, length: int
) -> Samples:
    """Make texts of random tokens, which come about as often as in text, with punctuation.

    Args:
        tokenizer: the network's tokenizer.
        path: the network, for messages.
        rng: draws the tokens.
        count: number of texts.
        length: mean number of tokens drawn for a text; their numbers range up to twice as many.

    Raises:
        EvaluationError: the tokenizer has no ordinary tokens.
    """
    tokens, shares = frequencies(tokenizer)
    if not len(tokens):
        raise EvaluationError(f"{path}: its tokenizer has no ordinary tokens")
    lengths = rng.integers(max(1, length // 4), 2 * length - length // 4, count, endpoint=True)
    drawn = np.split(rng.choice(tokens, int(lengths.sum()), p=shares), np.cumsum(lengths)[:-1])
    texts = [punctuated(text, rng) for text in tokenizer.batch_decode(drawn)]
    return samples_of(tokenizer, path, texts, MOST * length)


def punctuated(words: str, rng: np.random.Generator) -> str:
    """The words with a comma after some of them, and a full stop at the end."""
    parts = words.split()
    ends = np.where(rng.random(len(parts)) < COMMAS, ",", "")
    return " ".join(map("".join, zip(parts, ends, strict=True))) + "."


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


def _random_tokens(harness: Harness, rng: np.random.Generator, count: int) -> Samples:
    """Token numbers of a vocabulary that nothing is known of, all as frequent.

    Raises:
        UsageError: the configuration does not say how many there are.
    """
    path, size = harness.checkpoint.path, about(harness.config).vocabularies
    if not size:
        raise UsageError(f"{path}: its configuration does not say how large its vocabulary is")
    lengths = rng.integers(MEAN // 4, 2 * MEAN - MEAN // 4, count, endpoint=True)
    positions = (harness.config.get(key) for key in ("max_position_embeddings", "n_positions"))
    lengths = np.minimum(lengths, next(filter(None, positions), MOST * MEAN) - 2)
    mask = np.arange(lengths.max()) < np.sort(lengths)[:, None]
    tokens = np.where(mask, rng.integers(0, min(size), mask.shape), 0)
    return Samples(path, np.stack([tokens, mask.astype(np.int64)], 1), None, scaled=False)


def _image_shape(harness: Harness) -> tuple[int, int, int]:
    path, config = harness.checkpoint.path, harness.config
    size, channels = config.get("image_size"), config.get("num_channels", 3)
    height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
    shape = tuple(n for n in (channels, height, width) if isinstance(n, int) and 0 < n < 10_000)
    if len(shape) != 3:
        raise EvaluationError(f"{path}: its {CONFIG} does not say how large images are")
    return shape
