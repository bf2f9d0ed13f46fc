"""How a network is evaluated: what the user asks for, and the same resolved for one checkpoint.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rmtcli.checkpoint import Checkpoint
from rmtcli.errors import UsageError
from rmtcli.evaluation.data import Samples
from rmtcli.evaluation.reading import Reading
from rmtcli.evaluation.tasks import TASKS, Task, own_task, task_of
from rmtcli.files import is_remote

#: Activations that an inferred chain of linear layers may have.
ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "sigmoid", "identity")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How to score a checkpoint's network.

    Attributes:
        data: ``.npz`` or ``.safetensors`` file with ``inputs`` and, for accuracy, ``targets``; for
            a network that reads text, a ``.txt`` or ``.jsonl`` file.
        model: ``package.module:factory`` that returns the dense module; without it, a chain of
            linear layers is inferred from the checkpoint.
        activation: the activation between the layers of an inferred chain.
        score: ``package.module:function`` that takes a module and returns a number.
        device: where the network runs, such as ``cpu``, ``cuda`` or ``mps``, and where layers are
            decomposed; MPS has no float64, so there layers are decomposed on the CPU.
        task: what the network is used for, with options, such as ``"regression"`` or, of a Hugging
            Face directory, ``"causal-lm:length=256"``; by default it is inferred from targets and
            outputs, or read from the directory's files.

    Raises:
        UsageError: the activation is unknown.
    """

    data: str | Path | None = None
    model: str | None = None
    activation: str = "relu"
    score: str | None = None
    device: str = "cpu"
    task: str | None = None

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise UsageError(f"unknown activation '{self.activation}': choose one of {known}")

    @property
    def measures(self) -> bool:
        """Whether there is anything to measure with."""
        return self.data is not None or self.score is not None

    def resolve(self, checkpoint: Checkpoint) -> Harness:
        """The harness for a checkpoint's network; resolve once per run and pass the harness on.

        Raises:
            UsageError: the network is to be measured, and its task cannot be told, or is one of
                other checkpoints.
        """
        harness = Harness(self, checkpoint)
        if self.measures:
            _ = harness.task  # report a wrong --task before any work is done
        return harness


class Harness:
    """An evaluation resolved for one checkpoint: its task, its samples, and how it is built.

    Everything is computed on first use and kept: a run that measures nothing reads no
    configuration and no samples. :func:`rmtcli.evaluation.network.build` makes the torch module of
    the checkpoint, or of an edited version of it.

    Attributes:
        evaluation: what the user asked for.
        checkpoint: the network's checkpoint.
        reading: how its outputs are read, once :func:`rmtcli.evaluation.network.reading_of` has
            seen some; None before.
        notes: what a user should know about how the network took the weights, once it was built.
    """

    def __init__(self, evaluation: Evaluation, checkpoint: Checkpoint) -> None:
        self.evaluation = evaluation
        self.checkpoint = checkpoint
        self.reading: Reading | None = None
        self.notes: tuple[str, ...] = ()

    def note(self, sentences: Iterable[str]) -> None:
        """Add to the notes what they do not say yet."""
        self.notes = tuple(dict.fromkeys((*self.notes, *sentences)))

    @cached_property
    def pretrained(self) -> bool:
        """Whether transformers builds the network, from a Hugging Face directory."""
        return self.evaluation.model is None and self.checkpoint.path.is_dir()

    @cached_property
    def task(self) -> Task:
        """How the network is fed, and what its outputs are.

        Raises:
            UsageError: the directory does not tell its task, or the task is one of other
                checkpoints.
        """
        path, spelling = self.checkpoint.path, self.evaluation.task
        if self.pretrained:
            if is_remote(path):
                raise UsageError(f"{path}: transformers runs local directories only: copy it first")
            return task_of(path, spelling)
        return own_task(path, spelling)

    @cached_property
    def samples(self) -> Samples | None:
        """The held-out samples, read once; None if the evaluation names no data.

        Raises:
            UsageError: there is no such file, or its ending is unknown.
            EvaluationError: the file is damaged, or not what the task needs.
        """
        data = self.evaluation.data
        return None if data is None else self.read(data)

    def read(self, path: str | Path, part: str = "") -> Samples:
        """Samples for this network from any file, or from a part of it such as ``train_``."""
        return self.task.read(Path(path), self.checkpoint.path, part)

    @cached_property
    def description(self) -> str:
        """The network in words, for reports."""
        if self.evaluation.model:
            return self.evaluation.model
        if self.pretrained:
            return f"transformers' {self.task.auto}, for {TASKS.spell(self.task)}"
        activation = self.evaluation.activation
        return f"a chain of linear layers with {activation} between them (inferred)"

    @property
    def origin(self) -> str:
        """The network and the task that the user named, for files of statistics."""
        if self.pretrained or self.evaluation.task is None:
            return self.description
        return f"{self.description}, for {self.evaluation.task}"
