"""Inputs in memory as a network's task takes them. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rmtcli.calibration import GivenInputs
from rmtcli.errors import EvaluationError, UsageError
from rmtcli.evaluation.data import NO_TARGET, Samples, check_targets
from rmtcli.evaluation.pairs import with_targets
from rmtcli.evaluation.tasks import ImageClassification, Seq2SeqLM, Task, of_texts
from rmtcli.evaluation.text import LONGEST, MASK, tokenised


def given_samples(given: GivenInputs, task: Task, tokenizer: Callable[[], Any]) -> Samples:
    """Inputs as samples of a task; labels that are no targets are left out.

    Args:
        given: the inputs.
        task: how the network is fed.
        tokenizer: gives the tokenizer for texts.

    Raises:
        UsageError: the inputs are of another kind than the network's, or there is no tokenizer.
    """
    try:
        if given.targets is not None:
            check_targets(given.words, given.targets, len(given.texts) or len(given.inputs))
        targets = given.targets
    except EvaluationError:
        targets = None
    samples = Samples(Path(given.words), given.inputs, targets, scaled=False)
    if not task.auto:
        if given.tokens or given.images or given.texts:
            kind = "texts" if given.texts else "dictionaries"
            raise UsageError(
                f"{given.words}: {kind} are for models of transformers and SentenceTransformers: "
                "give the arrays that the network takes"
            )
        return samples
    if isinstance(task, ImageClassification):
        if given.inputs.ndim != 4:
            raise UsageError(
                f"{given.words}: images must have shape (samples, channels, height, width), not "
                f"{given.inputs.shape}"
            )
        return replace(samples, inputs=given.inputs.astype(np.float32))
    if given.texts:
        records = [{"text": text} for text in given.texts]
        length = getattr(task, "length", LONGEST)
        samples = tokenised(tokenizer(), Path(given.words), length, records, targets)
    elif not given.tokens:
        samples = replace(samples, inputs=_with_mask(given))
    if isinstance(task, Seq2SeqLM) and given.targets is not None:
        return with_targets(samples, _written(given, samples.inputs))
    return of_texts(samples, task)


def _written(given: GivenInputs, inputs: Any) -> Any:
    """Labels as an encoder-decoder's targets; negative numbers stand for padding.

    Raises:
        UsageError: they are not token numbers of one text per sample.
    """
    labels = given.targets
    assert labels is not None
    fits = labels.dtype.kind in "iu" and labels.ndim == 2 and len(labels) == len(inputs)
    if not fits or not (labels >= 0).any(1).all():
        raise UsageError(
            f"{given.words}: labels of an encoder-decoder must be token numbers of shape (samples, "
            f"positions), not {labels.dtype} of shape {labels.shape}"
        )
    return np.where(labels >= 0, labels, NO_TARGET).astype(np.int64)


def _with_mask(given: GivenInputs) -> Any:
    """Token numbers, shape (samples, positions), with a mask of ones.

    Raises:
        UsageError: they are not token numbers.
    """
    if given.inputs.dtype.kind not in "iu" or given.inputs.ndim != MASK + 1:
        raise UsageError(
            f"{given.words}: a model of transformers takes dictionaries with 'input_ids', or token "
            f"numbers of shape (samples, positions), not {given.inputs.dtype} of shape "
            f"{given.inputs.shape}"
        )
    tokens = given.inputs.astype(np.int64)
    return np.stack([tokens, np.ones_like(tokens)], axis=1)
