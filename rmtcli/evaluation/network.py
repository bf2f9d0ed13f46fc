"""Build a torch module from a checkpoint, and run it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import nn

from rmtcli.checkpoint import Checkpoint, Edited
from rmtcli.computing.device import using
from rmtcli.errors import EvaluationError, UsageError
from rmtcli.evaluation.activation import settled_activation
from rmtcli.evaluation.chain import infer_chain
from rmtcli.evaluation.data import Samples
from rmtcli.evaluation.harness import Harness, Model
from rmtcli.evaluation.problem import reading_of_config
from rmtcli.evaluation.reading import Reading, Rows, read_rows
from rmtcli.evaluation.tasks import ImageClassification, TextClassification
from rmtcli.evaluation.user_code import blame, called, import_named, last_line, words_of
from rmtcli.layouts.module import fill, loads_itself
from rmtcli.options import option

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
        harness.activation = harness.activation or settled_activation(harness)
        model: Any = infer_chain(checkpoint, harness.activation)
    else:
        model = _from_user(given)
    ignored = fill(model, checkpoint)
    if given is not None:
        harness.note(_on_class(words_of(given), model, checkpoint, ignored))
    return _moved(model.eval(), evaluation.device)


def _from_user(given: Model) -> nn.Module:
    """The network that a user's factory returns, or a copy of the one that a name stands for.

    Raises:
        UsageError: there is nothing of this name.
        EvaluationError: it is not a network, or the factory fails.
    """
    made: Any = import_named(given) if isinstance(given, str) else given
    if isinstance(made, nn.Module):
        return copy.deepcopy(made)
    name = words_of(given)
    if not callable(made):
        kind = type(made).__name__
        raise UsageError(f"'{name}' is not a network, or a function that returns one, but {kind}")
    model = called(made, name)
    if not isinstance(model, nn.Module):
        raise EvaluationError(f"{name} returned {type(model).__name__}, not a torch.nn.Module")
    return model


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
            f"{spec} has a load_state_dict of its own: if it is not strict, it silently leaves the "
            "split layers at random values; load the file with rmtcli.load"
        )


def _moved(model: nn.Module, device: str) -> nn.Module:
    with using(device):
        return model.to(device)


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
        shape, words = tuple(inputs.shape), blame(error)
        if last_line(error):
            text = f"the network fails on inputs of shape {shape} from {source}: {words}"
        else:
            text = f"{source}: the network does not take inputs of shape {shape}: {words}"
            text += _on_length(model, inputs)
        raise EvaluationError(text) from error
    tensor = isinstance(outputs, torch.Tensor)
    if tensor and outputs.shape == (len(inputs),):
        outputs = outputs.unsqueeze(1)
    if not tensor or outputs.ndim != 2:
        result = tuple(outputs.shape) if tensor else type(outputs).__name__
        raise EvaluationError(
            f"the network returned {result}: one row of outputs per sample is needed: name a "
            f"factory of a network that returns it with {option('model')}"
        )
    if not bool(torch.isfinite(outputs).all()):
        raise EvaluationError("the network returned values that are NaN or infinite")
    return cast(torch.Tensor, outputs)


def _on_length(model: nn.Module, inputs: torch.Tensor) -> str:
    """What to do where texts have more tokens than a network of transformers has positions."""
    positions = getattr(model, "positions", None)
    if inputs.is_floating_point() or not isinstance(positions, int):
        return ""
    if inputs.shape[-1] <= positions:
        return ""
    return (
        f": it has {positions} positions: give the task a length of at most so many tokens, as in "
        f"{option('task', f'causal-lm:length={positions}')}"
    )


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
