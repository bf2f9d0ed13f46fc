"""How a network is evaluated: what the user asks for, and the same resolved for one checkpoint.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from rmtcli.calibration import Data, FileShare, GivenInputs, given_inputs
from rmtcli.checkpoint import Checkpoint
from rmtcli.computing import device_of
from rmtcli.errors import UsageError
from rmtcli.evaluation.data import Samples, check_targets
from rmtcli.evaluation.given import given_samples
from rmtcli.evaluation.problem import config_of
from rmtcli.evaluation.reading import Reading
from rmtcli.evaluation.tasks import TASKS, Task
from rmtcli.evaluation.text import tokenizer_of
from rmtcli.evaluation.user_code import check_spelling, words_of
from rmtcli.evaluation.which_task import live_task, own_task, task_of
from rmtcli.files import is_remote

if TYPE_CHECKING:
    from torch import nn

    from rmtcli.evaluation.live import LiveNetwork

#: A network as a user gives it: ``package.module:factory``, a factory, or a module.
Model: TypeAlias = "str | nn.Module | Callable[[], nn.Module]"
#: A user's own measure of a network: ``package.module:function``, or the function.
Score: TypeAlias = "str | Callable[[nn.Module], float]"

#: Activations that an inferred chain of linear layers may have.
RELU = "relu"
ACTIVATIONS = (RELU, "gelu", "silu", "tanh", "sigmoid", "identity")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How to score a checkpoint's network.

    Attributes:
        data: ``.npz`` or ``.safetensors`` file with ``inputs`` and, for accuracy, ``targets``; for
            a network that reads text, a ``.txt`` or ``.jsonl`` file. Or samples as Python has them:
            a pair of arrays, a DataLoader, batches of a tokenizer, texts.
        model: ``package.module:factory`` that returns the dense module; or the factory itself; or
            a module, of which copies are used. Without it, a network in memory is its own, and for
            a file a chain of linear layers is inferred.
        activation: the activation between the layers of an inferred chain; by default ``relu``, or
            with targets the one that scores best on a few hundred samples.
        score: ``package.module:function`` that takes a module and returns a number, or one number
            per sample, whose mean is the score; or the function itself.
        device: where the network runs, such as ``cpu``, ``cuda`` or ``mps``, or ``auto`` for the
            accelerator that torch has, unless it is a module in memory, which stays where it is;
            and where layers are decomposed. MPS has no float64, so there layers are decomposed on
            the CPU.
        task: what the network is used for, with options, such as ``"regression"`` or, of a Hugging
            Face directory, ``"causal-lm:length=256"``; by default it is inferred from targets and
            outputs, or read from the directory's files.

    Raises:
        UsageError: the activation or the device is unknown, or a name has another form.
    """

    data: Any = None
    model: Model | None = None
    activation: str | None = None
    score: Score | None = None
    device: str = "cpu"
    task: str | None = None

    def __post_init__(self) -> None:
        if self.data is not None and not isinstance(self.data, Data):
            object.__setattr__(self, "data", given_inputs(self.data))
        if self.activation not in (*ACTIVATIONS, None):
            known = ", ".join(ACTIVATIONS)
            raise UsageError(f"unknown activation '{self.activation}': choose one of {known}")
        for given in (self.model, self.score):
            if isinstance(given, str):
                check_spelling(given)
        object.__setattr__(self, "device", device_of(self.device))

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
        activation: that of an inferred chain, once it was built; None before.
        notes: what a user should know about how the network took the weights, once it was built.
    """

    def __init__(self, evaluation: Evaluation, checkpoint: Checkpoint) -> None:
        self.evaluation = evaluation
        self.checkpoint = checkpoint
        self.reading: Reading | None = None
        self.activation: str | None = None
        self.notes: tuple[str, ...] = ()

    def note(self, sentences: Iterable[str]) -> None:
        """Add to the notes what they do not say yet."""
        self.notes = tuple(dict.fromkeys((*self.notes, *sentences)))

    @property
    def model(self) -> Model | None:
        """The network that the user gives: by the evaluation, or as a module in memory."""
        own = self.evaluation.model
        return self.checkpoint.module if own is None else own

    @cached_property
    def live(self) -> LiveNetwork | None:
        """The network, where it is a module in memory."""
        model = self.model
        if isinstance(model, str | type) or not hasattr(model, "named_modules"):
            return None
        from rmtcli.evaluation.live import LiveNetwork  # needs torch, which made the module

        return LiveNetwork(cast("nn.Module", model))

    @property
    def transformers(self) -> bool:
        """Whether the network is a model of transformers, of a directory or in memory."""
        return self.pretrained or (self.live is not None and self.live.transformers)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The configuration of a model of transformers."""
        return config_of(self.checkpoint.path) if self.live is None else self.live.config

    def tokenizer(self) -> Any:
        """The network's tokenizer; None where there is none.

        Raises:
            CheckpointError: the directory names code.
            EvaluationError: it has no tokenizer, or it cannot be read.
        """
        if self.live is None:
            return tokenizer_of(self.checkpoint.path)
        return self.live.tokenizer() if self.live.embeds else None

    @cached_property
    def pretrained(self) -> bool:
        """Whether transformers builds the network, from a Hugging Face directory."""
        return self.model is None and self.checkpoint.is_directory

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
        if self.live is not None and self.live.transformers:
            return live_task(self.live.kind, spelling)
        return own_task(path, spelling)

    @cached_property
    def samples(self) -> Samples | None:
        """The held-out samples, read once; None if the evaluation names no data.

        Raises:
            UsageError: there is no such file, or its ending is unknown.
            EvaluationError: the file is damaged, or not what the task needs.
        """
        data = self.evaluation.data
        if isinstance(data, GivenInputs) and data.targets is not None:
            check_targets(f"{data}: labels", data.targets, len(data.texts) or len(data.inputs))
        return None if data is None else self.read(data)

    def read(self, data: Data, part: str = "") -> Samples:
        """Samples for this network: from a file, or a part of it such as ``train_``; or in memory.

        Raises:
            UsageError: a text file for a network in memory, or inputs of another kind.
        """
        if isinstance(data, GivenInputs):
            live = self.live
            tokenizer = self.tokenizer if live is None else live.tokenizer
            return given_samples(data, self.task, tokenizer)
        if isinstance(data, FileShare):
            return self.read(data.path).split(data.percent, 100 - data.percent)[0]
        if self.live is not None and self.live.transformers:
            raise UsageError(
                f"{data}: files are read for directories, which have a tokenizer: give a model in "
                "memory dictionaries with 'input_ids', and a SentenceTransformer a list of texts"
            )
        return self.task.read(Path(data), self.checkpoint.path, part)

    @property
    def description(self) -> str:
        """The network in words, for reports."""
        if self.model is not None:
            return words_of(self.model)
        if self.pretrained:
            return f"transformers' {self.task.auto}, for {TASKS.spell(self.task)}"
        activation = self.activation or self.evaluation.activation or RELU
        return f"a chain of linear layers with {activation} between them (inferred)"

    @property
    def origin(self) -> str:
        """The network and the task that the user named, for files of statistics."""
        if self.pretrained or self.evaluation.task is None:
            return self.description
        return f"{self.description}, for {self.evaluation.task}"
