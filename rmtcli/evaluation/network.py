"""Build a torch module from a checkpoint, and run it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.names import factors_of, member, module_of, pivots_of
from rmtcli.computing.device import using
from rmtcli.errors import EvaluationError, RmtcliError, UsageError, first_line
from rmtcli.evaluation.data import Samples
from rmtcli.evaluation.harness import Harness
from rmtcli.evaluation.problem import reading_of_config
from rmtcli.evaluation.reading import Reading, Rows, read_rows
from rmtcli.evaluation.tasks import ImageClassification, TextClassification
from rmtcli.layers import Link, ordered
from rmtcli.layouts import check_factors
from rmtcli.layouts.module import load

#: Number of samples on which a network's outputs are looked at.
READ = 256

_MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


def build(harness: Harness, checkpoint: Checkpoint | None = None) -> nn.Module:
    """Build a network and load its weights, in evaluation mode on the harness's device.

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
    if evaluation.model is None:
        model: Any = infer_chain(checkpoint, evaluation.activation)
    else:
        model = call(evaluation.model)
        if not isinstance(model, nn.Module):
            raise EvaluationError(
                f"{evaluation.model} returned {type(model).__name__}, not a torch.nn.Module"
            )
    return _moved(load(model, checkpoint).eval(), evaluation.device)


def _moved(model: nn.Module, device: str) -> nn.Module:
    with using(device):
        return model.to(device)


class Chain(nn.Module):
    """Linear layers one after another, named as in the checkpoint."""

    def __init__(self, layers: dict[str, nn.Module], activation: nn.Module) -> None:
        super().__init__()
        self.order = tuple(layers)
        self.activation = activation
        for name, layer in layers.items():
            parent: nn.Module = self
            *path, leaf = name.split(".")
            for part in path:
                if part not in parent._modules:
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            parent.add_module(leaf, layer)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map inputs of shape (samples, …), flattened, to outputs of shape (samples, classes)."""
        values = inputs.flatten(1)
        for name in self.order[:-1]:
            values = self.activation(self.get_submodule(name)(values))
        last: torch.Tensor = self.get_submodule(self.order[-1])(values)
        return last


def infer_chain(checkpoint: Checkpoint, activation: str) -> Chain:
    """Infer a chain of linear layers from a checkpoint's names and shapes.

    Raises:
        EvaluationError: a tensor belongs to no linear layer, the widths of neighbours differ, the
            order of the layers is ambiguous, or two layers may be unrecorded factors.
        LayerError: factors that the manifest names are missing.
    """
    factored = checkpoint.manifest.factored if checkpoint.manifest else {}
    for module in factored:
        check_factors(checkpoint, module)
    layers: dict[str, nn.Module] = {}
    for link in _links(checkpoint, factored):
        first, _, bias = _ends(checkpoint, link.name, factored)
        dtype = torch.float64 if checkpoint.infos[first].dtype == "F64" else torch.float32
        biased = bias in checkpoint.infos
        layers[link.name] = nn.Linear(link.inputs, link.outputs, bias=biased, dtype=dtype)
    try:
        return Chain(layers, _MODULES[activation]())
    except KeyError as error:
        raise EvaluationError(
            f"{checkpoint.path}: no network can be inferred: a layer's name is not one that torch "
            f"allows ({error.args[0]}): name the network with --model package.module:factory"
        ) from None


def _links(checkpoint: Checkpoint, factored: Mapping[str, int]) -> Sequence[Link]:
    """The linear layers of a checkpoint, in the order in which they run.

    Raises:
        EvaluationError: they are not a chain, or their order is ambiguous.
    """
    links, used = [], set()
    for name, info in checkpoint.infos.items():
        if len(info.shape) != 2 or name in used or name.rpartition(".")[2] != "weight":
            continue
        module = module_of(name)
        module = module_of(module) if module_of(module) in factored else module
        first, last, bias = _ends(checkpoint, module, factored)
        used |= {first, last, bias, *pivots_of(module)}
        inputs, outputs = checkpoint.infos[first].shape[1], checkpoint.infos[last].shape[0]
        links.append(Link(module, inputs, outputs))
    chain = ordered(links, as_stored=checkpoint.as_stored)
    why = _why_no_chain(checkpoint, links, used, chain, factored)
    if why or not chain:
        raise EvaluationError(
            f"{checkpoint.path}: not a plain chain of linear layers ({why}): "
            "name the network with --model package.module:factory"
        )
    return chain


def _ends(checkpoint: Checkpoint, module: str, factored: Mapping[str, int]) -> tuple[str, str, str]:
    """Names of a layer's tensors whose shapes tell its inputs and outputs, and of its bias."""
    core, _, order = pivots_of(module)
    if module in factored and order in checkpoint.infos:
        return core, order, member(module, "bias")
    if module in factored:
        return factors_of(module)
    weight = member(module, "weight")
    return weight, weight, member(module, "bias")


def _why_no_chain(
    checkpoint: Checkpoint,
    links: Sequence[Link],
    used: Collection[str],
    chain: Sequence[Link] | None,
    factored: Mapping[str, int],
) -> str | None:
    """Why a checkpoint is not a chain of linear layers, in words; None if it is one."""
    if not links:
        return "it has no linear layers"
    other = next((name for name in checkpoint.infos if name not in used), None)
    if other is not None:
        return f"'{other}' belongs to no linear layer"
    for a, b in pairwise(links):
        parent = module_of(a.name)
        pair = a.name == member(parent, "0") and b.name == member(parent, "1")
        if pair and member(a.name, "bias") not in checkpoint.infos and parent not in factored:
            return f"'{a.name}' and '{b.name}' may be factors of one layer, but no record says so"
        if checkpoint.as_stored and a.outputs != b.inputs:
            return f"'{a.name}' gives {a.outputs} values and '{b.name}' takes {b.inputs}"
    if chain is None:
        return "a safetensors file keeps no order, and these names and widths do not determine one"
    return None


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


def call(spec: str, *arguments: object) -> Any:
    """Call a user's function and return its result.

    Raises:
        UsageError: the function cannot be found.
        EvaluationError: the function raised an exception.
    """
    function = import_callable(spec)
    try:
        return function(*arguments)
    except RmtcliError:
        raise
    except Exception as error:
        raise EvaluationError(f"{spec} failed: {_in_words(error)}") from None


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
    if harness.pretrained and harness.reading is None:
        harness.reading = _of_directory(harness)
    if harness.reading is not None or samples is None:
        return harness.reading or Reading(rows or Rows.CLASSES)
    few = samples.some(READ)
    outputs = run(model, torch.from_numpy(few.inputs), str(samples.path)).double().cpu().numpy()
    targets = samples.targets if harness.samples is None else harness.samples.targets
    harness.reading = read_rows(targets, outputs, rows)
    return harness.reading


def _of_directory(harness: Harness) -> Reading:
    """What a directory says: embeddings, tokens, or what its configuration says about classes."""
    if isinstance(harness.task, TextClassification | ImageClassification):
        return reading_of_config(harness.checkpoint.path)
    return Reading(harness.task.rows or Rows.CLASSES)


def _in_words(error: Exception) -> str:
    """The first line of an error's text, after its type unless the text explains itself."""
    kind, text = type(error).__name__, first_line(error)
    plain = isinstance(error, RuntimeError | ImportError) or text == kind
    return text if plain else f"{kind}: {text}"
