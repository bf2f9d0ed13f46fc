"""What is measured, and what comes out. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rmtcli.errors import UsageError
from rmtcli.evaluation.confidence import confidence, cosines, kullback_leibler
from rmtcli.evaluation.data import Samples
from rmtcli.evaluation.tasks import TASKS, Arrays, Rows, Task, task_of
from rmtcli.files import is_remote

#: What may stand between the layers of an inferred chain.
ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "sigmoid", "identity")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How to score a checkpoint's network.

    Attributes:
        data: ``.npz`` or ``.safetensors`` file with ``inputs`` and, for accuracy, ``targets``; for
            a network that reads text, a ``.txt`` or ``.jsonl`` file.
        model: ``package.module:factory`` that returns the dense module; a chain of linear layers
            is inferred from the checkpoint without it.
        activation: what stands between the layers of an inferred chain.
        score: ``package.module:function`` that takes a module and returns a number.
        device: where the network runs, such as ``cpu``, ``cuda`` or ``mps``, and where layers are
            decomposed; MPS has no float64, and leaves that to the processor.
        task: what a Hugging Face directory is used for, with options, such as
            ``"causal-lm:length=256"``; by default what its files tell.

    Raises:
        UsageError: an unknown activation.
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

    def task_of(self, path: Path) -> Task:
        """How the checkpoint's network is fed.

        Raises:
            UsageError: a directory that does not tell what it is for, or a task for a file.
        """
        if self.model is None and path.is_dir():
            if is_remote(path):
                raise UsageError(f"{path}: transformers runs local directories only: copy it first")
            return task_of(path, self.task)
        if self.task is not None:
            raise UsageError(f"{path}: --task is for Hugging Face directories: leave it out")
        return Arrays()

    def network(self, path: Path) -> str:
        """What is run, in words for the report."""
        if self.model:
            return self.model
        if path.is_dir():
            task = self.task_of(path)
            return f"transformers' {task.auto}, for {TASKS.spell(task)}"
        return f"a chain of linear layers with {self.activation} between them (inferred)"


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What was measured on one network.

    Attributes:
        outputs: shape (rows, width), class scores or embeddings; None without data, and of a
            language model, which has too many.
        accuracy: share of predictions that are right, in percent; None without targets. Of
            embeddings, 100 times their mean cosine with the dense network's.
        score: result of the user's own function; None without one.
        chosen: shape (rows,), the class with the largest score, where there are too many outputs
            to keep.
        perplexity: exp of the mean negative log-likelihood of a language model's targets.
    """

    outputs: NDArray[np.floating] | None
    accuracy: float | None
    score: float | None
    chosen: NDArray[np.int64] | None = None
    perplexity: float | None = None

    @property
    def predictions(self) -> NDArray[np.int64] | None:
        """Shape (rows,), the class with the largest score; None without data."""
        return self.chosen if self.outputs is None else self.outputs.argmax(1)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Shares of the samples, in percent, that keep their class whatever the change does to them.

    Attributes:
        propagated: by the norms of the changes and of the layers that they pass through.
        hidden: by the distance that the last hidden layer moved, in whatever direction.
    """

    propagated: float
    hidden: float


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """A network's scores, beside those of the network it was made from.

    Attributes:
        network: what was run.
        samples: what it was run on, or None.
        before: scores of the dense network, or None where there is none to compare with.
        after: scores of the network in question.
        unhealed: scores of that network before it was trained, or None where it was not.
        training: what it was trained by: ``healing`` or ``fine-tuning``.
        certificate: on how many samples the class cannot have changed; None for a network that
            is no chain of linear layers.
        rows: what the outputs are.
    """

    network: str
    samples: Samples | None
    before: Scores | None
    after: Scores
    unhealed: Scores | None = None
    certificate: Certificate | None = None
    rows: Rows = Rows.CLASSES
    training: str = "healing"

    @property
    def drop(self) -> float | None:
        """Accuracy lost, in points; None where it was not measured on both.

        Of embeddings, hundredths of the cosine that are missing to 1.
        """
        if self.before is None or self.before.accuracy is None or self.after.accuracy is None:
            return None
        return self.before.accuracy - self.after.accuracy

    @property
    def agreement(self) -> float | None:
        """Share of rows that both networks give the same class, in percent."""
        if self.rows is not Rows.CLASSES or self.before is None or self.before.predictions is None:
            return None
        return 100 * float(np.mean(self.before.predictions == self.after.predictions))

    @property
    def divergence(self) -> float | None:
        """Mean Kullback–Leibler divergence of the class probabilities from the dense ones, nats."""
        if self.rows is not Rows.CLASSES or self.before is None:
            return None
        if self.before.outputs is None or self.after.outputs is None:
            return None
        return kullback_leibler(self.before.outputs, self.after.outputs)

    @property
    def cosines(self) -> NDArray[np.float64] | None:
        """Shape (samples,), of each embedding with the dense network's; None for class scores."""
        if self.rows is not Rows.VECTORS or self.before is None:
            return None
        if self.before.outputs is None or self.after.outputs is None:
            return None
        return cosines(self.before.outputs, self.after.outputs)

    @property
    def margins(self) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]] | None:
        """Each sample's classification confidence, before and after, shape (samples,) each.

        The class is the right one, or without targets the one that the dense network gives.
        """
        if self.rows is not Rows.CLASSES or self.after.outputs is None or self.samples is None:
            return None
        if self.after.outputs.shape[1] < 2:
            return None
        classes = self.samples.targets
        if classes is None:
            classes = (self.before or self.after).predictions
            assert classes is not None
        dense = None if self.before is None else self.before.outputs
        return (
            None if dense is None else confidence(dense, classes),
            confidence(self.after.outputs, classes),
        )
