"""Which task a network has: the one that is named, or the one that its files or class imply."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from rmtcli.checkpoint.huggingface.config import read_object
from rmtcli.errors import CheckpointError, UsageError
from rmtcli.evaluation.tasks import TASKS, Arrays, SentenceEmbedding, Task
from rmtcli.files import CONFIG
from rmtcli.options import option

#: Tasks by the ending of the name of a transformers class.
_ARCHITECTURES = {
    "ForSequenceClassification": "text-classification",
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
    "T5ForConditionalGeneration": "seq2seq-lm",
    "BartForConditionalGeneration": "seq2seq-lm",
    "PegasusForConditionalGeneration": "seq2seq-lm",
    "MarianMTModel": "seq2seq-lm",
    "ForImageClassification": "image-classification",
}


def task_of(directory: Path, spelling: str | None) -> Task:
    """The task that is named, or else the one that the directory's files imply.

    Args:
        directory: a Hugging Face directory.
        spelling: the task with its options, such as ``"causal-lm:length=256"``, or None.

    Raises:
        UsageError: the task is unknown, the files imply none, or transformers is not installed.
    """
    if find_spec("transformers") is None:
        raise UsageError(f"{directory}: running it needs transformers: pip install transformers")
    if spelling is not None:
        return _of_transformers(directory, spelling)
    if (directory / "modules.json").is_file():
        return SentenceEmbedding()
    try:
        config = read_object(directory / CONFIG)
        names = [str(name) for name in config.get("architectures") or []]
    except (OSError, CheckpointError, TypeError):
        names = []
    return implied_task(names) or _unknown(directory, "its files do")


def live_task(kind: str, spelling: str | None) -> Task:
    """The task of a model of transformers in memory: the one that is named, or that its class has.

    A bare model, whose class ends in ``Model``, is compared by its pooled embeddings.

    Args:
        kind: name of the class.
        spelling: the task, or None.

    Raises:
        UsageError: the task is unknown, or the class implies none.
    """
    if spelling is not None:
        return _of_transformers(Path(kind), spelling)
    bare = SentenceEmbedding() if kind.endswith("Model") else None
    return implied_task([kind]) or bare or _unknown(Path(kind), "its class does")


def implied_task(architectures: Sequence[str]) -> Task | None:
    """The task of networks of these classes; None if their names imply none."""
    for ending, implied in _ARCHITECTURES.items():
        if any(name.endswith(ending) for name in architectures):
            return TASKS.parse(implied)
    return None


def _unknown(path: Path, what: str) -> NoReturn:
    raise UsageError(
        f"{path}: {what} not say what the network is for: name a {option('task')}: "
        f"{', '.join(_of_directories())}"
    )


def _of_transformers(path: Path, spelling: str) -> Task:
    """A task of a network of transformers.

    Raises:
        UsageError: it is a task of other networks.
    """
    task = TASKS.parse(spelling)
    if not task.auto:
        raise UsageError(
            f"{path}: {option('task', spelling)} is for a network of your own, given by "
            f"{option('model')}: for a model of transformers, choose one of "
            f"{', '.join(_of_directories())}"
        )
    return task


def own_task(path: Path, spelling: str | None) -> Task:
    """The task of a network that transformers does not build.

    Args:
        path: the checkpoint, for messages.
        spelling: the task, such as ``"regression"``, or None to infer it.

    Raises:
        UsageError: the task is unknown, or one of Hugging Face directories.
    """
    if spelling is None:
        return Arrays()
    task = TASKS.parse(spelling)
    if task.auto:
        own = ", ".join(name for name, choice in TASKS.choices.items() if not choice.auto)
        raise UsageError(
            f"{path}: {option('task', spelling)} is for Hugging Face directories: leave it out, "
            f"or choose one of {own}"
        )
    return task


def _of_directories() -> list[str]:
    return [name for name, choice in TASKS.choices.items() if choice.auto]
