"""Build a torch module from a checkpoint, and run it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from rmtcli.checkpoint import Checkpoint, Edited
from rmtcli.computing.device import using
from rmtcli.errors import EvaluationError, RmtcliError, UsageError, first_line
from rmtcli.evaluation.chain import infer_chain
from rmtcli.evaluation.data import Samples
from rmtcli.evaluation.harness import Harness, words_of
from rmtcli.evaluation.problem import reading_of_config
from rmtcli.evaluation.reading import Reading, Rows, read_rows
from rmtcli.evaluation.tasks import ImageClassification, TextClassification
from rmtcli.layouts.module import fill, loads_itself

#: Number of samples on which a network's outputs are looked at.
READ = 256


def build(harness: Harness, checkpoint: Checkpoint | None = None) -> nn.Module:
    """Build a network and load its weights, in evaluation mode on the harness's device.

    A module in memory is copied, where it is, and shares with the copy what does not change.

    Args:
        harness: how the network is built.
        checkpoint: the weights: an edited version of the harness's checkpoint, or by default that
            checkpoint itself.

    Raises:
        UsageError: the factory or the device cannot be found.
        EvaluationError: no chain can be inferred, or the factory does not return a module.
        CheckpointError: the weights do not fit the module.
    """
    evaluation, checkpoint = harness.evaluation, checkpoint or harness.checkpoint
    if harness.pretrained:
        from rmtcli.evaluation.pretrained import pretrained  # transformers is optional

        return _moved(pretrained(checkpoint, harness.task), evaluation.device)
    if harness.live is not None:
        return harness.live.build(checkpoint, harness.checkpoint, harness.task)
    given = evaluation.model
    if given is None:
        model: Any = infer_chain(checkpoint, evaluation.activation)
    else:
        model = call(cast("str | Callable[[], Any]", given))
        if not isinstance(model, nn.Module):
            raise EvaluationError(
                f"{words_of(given)} returned {type(model).__name__}, not a torch.nn.Module"
            )
    ignored = fill(model, checkpoint)
    if given is not None:
        harness.note(_on_class(words_of(given), model, checkpoint, ignored))
    return _moved(model.eval(), evaluation.device)


def _on_class(
    spec: str, model: nn.Module, checkpoint: Checkpoint, ignored: Sequence[str]
) -> Iterator[str]:
    """What a user should know about the class of a network that was filled from a checkpoint.

    Args:
        spec: the class or factory as the user wrote it.
        model: the network.
        checkpoint: what it was filled from.
        ignored: tensors that it has no use for.
    """
    if ignored and not isinstance(checkpoint, Edited):
        more = f" and {len(ignored) - 3} more" if len(ignored) > 3 else ""
        yield (
            f"{spec} has no use for {', '.join(ignored[:3])}{more}: they stay in the file, and the "
            "network was run without them"
        )
    if loads_itself(model) and checkpoint.manifest is not None and checkpoint.manifest.factored:
        yield (
            f"{spec} has a load_state_dict of its own: if it is not strict, it leaves the layers "
            "that are split at random values, in silence; load the file with rmtcli.load"
        )


def _moved(model: nn.Module, device: str) -> nn.Module:
    with using(device):
        return model.to(device)


def import_callable(spec: str) -> Callable[..., Any]:
    """Import the function named ``package.module:function``, first from the working folder.

    From then on the working folder is the last in which modules are looked for: the user's module
    may import others there when it runs, and none there takes the place of an installed one.

    Raises:
        UsageError: there is no such module or function, or the name has another form.
    """
    module_name, colon, attribute = spec.partition(":")
    if not (module_name and colon and attribute):
        raise UsageError(f"'{spec}' must be written package.module:function")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    # A user's module may raise anything while it is imported.
    except Exception as error:
        raise UsageError(f"'{spec}' cannot be imported: {_in_words(error)}") from None
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)
    if not callable(function):
        raise UsageError(f"'{spec}' is not a function or class")
    return function  # type: ignore[no-any-return]


def call(spec: str | Callable[..., Any], *arguments: object) -> Any:
    """Call a user's function, or the one of this name, and return its result.

    Raises:
        UsageError: the function cannot be found.
        EvaluationError: the function raised an exception.
    """
    function = import_callable(spec) if isinstance(spec, str) else spec
    try:
        return function(*arguments)
    except RmtcliError:
        raise
    except Exception as error:
        raise EvaluationError(f"{words_of(spec)} failed: {_in_words(error)}") from None


def run(model: nn.Module, inputs: torch.Tensor, source: str) -> torch.Tensor:
    """Run a network; its outputs have shape (rows, width), also where it returns single numbers.

    Args:
        model: the network.
        inputs: shape (samples, …); floating-point inputs are cast to the network's type.
        source: the inputs' file, for messages.

    Raises:
        EvaluationError: the network raised an exception, or did not return finite rows.
    """
    first = next(model.parameters())
    inputs = inputs.to(first.device)
    try:
        outputs = model(inputs.to(first.dtype) if inputs.is_floating_point() else inputs)
    # A user's network may raise anything.
    except Exception as error:
        shape = tuple(inputs.shape)
        raise EvaluationError(
            f"{source}: the network does not take inputs of shape {shape}: {_in_words(error)}"
        ) from None
    tensor = isinstance(outputs, torch.Tensor)
    if tensor and outputs.shape == (len(inputs),):
        outputs = outputs.unsqueeze(1)
    if not tensor or outputs.ndim != 2:
        result = tuple(outputs.shape) if tensor else type(outputs).__name__
        raise EvaluationError(
            f"the network returned {result}: one row of outputs per sample is needed"
        )
    if not bool(torch.isfinite(outputs).all()):
        raise EvaluationError("the network returned values that are NaN or infinite")
    return cast(torch.Tensor, outputs)


@torch.inference_mode()
def reading_of(harness: Harness, model: nn.Module, samples: Samples | None) -> Reading:
    """How a network's outputs are read: as its task says, or as targets and outputs show.

    The first network that is asked about, which is the dense one if there is one, decides for all.

    Args:
        harness: the network's task and held-out samples; keeps the answer.
        model: the network, on its device.
        samples: inputs to run it on; without any, the answer is not kept.
    """
    rows = harness.task.rows
    if harness.transformers and harness.reading is None:
        harness.reading = _of_transformers(harness)
    if harness.reading is not None or samples is None:
        return harness.reading or Reading(rows or Rows.CLASSES)
    few = samples.some(READ)
    outputs = run(model, torch.from_numpy(few.inputs), str(samples.path)).double().cpu().numpy()
    targets = samples.targets if harness.samples is None else harness.samples.targets
    harness.reading = read_rows(targets, outputs, rows)
    return harness.reading


def _of_transformers(harness: Harness) -> Reading:
    """What a model of transformers gives: embeddings, tokens, or what its configuration says."""
    if isinstance(harness.task, TextClassification | ImageClassification):
        return reading_of_config(harness.config)
    return Reading(harness.task.rows or Rows.CLASSES)


def _in_words(error: Exception) -> str:
    """The first line of an error's text, after its type unless the text explains itself."""
    kind, text = type(error).__name__, first_line(error)
    plain = isinstance(error, RuntimeError | ImportError) or text == kind
    return text if plain else f"{kind}: {text}"
