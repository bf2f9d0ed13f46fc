"""A model of transformers as an ONNX file beside its weights, kept if it computes the same."""

from __future__ import annotations

import inspect
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.huggingface.write import source_of
from rmtcli.errors import EvaluationError, UsageError, first_line
from rmtcli.evaluation import Harness
from rmtcli.evaluation.pretrained import pretrained
from rmtcli.files.path import inside
from rmtcli.layouts.packed_module import keep_packed
from rmtcli.options import option

#: Where optimum and sentence-transformers look for a graph in a directory.
FILE = Path("onnx", "model.onnx")
#: What a model returns, by its Auto class, under the name that optimum knows.
_OUTPUTS = {
    "AutoModel": "last_hidden_state",
    "AutoModelForSequenceClassification": "logits",
    "AutoModelForImageClassification": "logits",
}
#: What a text model reads, as far as its ``forward`` knows it.
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
#: Largest difference of outputs, as a share of the largest output.
_TOLERANCE = 1e-4


def check_exportable(harness: Harness, *, directory: bool) -> None:
    """Make sure that a network can be written as ONNX, before any work is done.

    Raises:
        UsageError: it is no directory, its task needs more than one graph, or a package is missing.
    """
    path = harness.checkpoint.path
    if not directory:
        raise UsageError(
            f"{path}: {option('onnx')} is for Hugging Face directories: of any other network, "
            "prune the ONNX file that torch.onnx.export writes"
        )
    if harness.task.auto not in _OUTPUTS:
        raise UsageError(
            f"{path}: {option('onnx')} writes encoders and classifiers: for a model that "
            "generates text, run rmtcli densify and export the result by optimum"
        )
    for package in ("onnx", "onnxruntime"):
        if find_spec(package) is None:
            raise UsageError(f"{option('onnx')} needs {package}: pip install {package}")


def write_onnx(harness: Harness, checkpoint: Checkpoint, folder: Path) -> None:
    """Write ``onnx/model.onnx`` into a directory, run it, and compare it with torch.

    Weights are those of the checkpoint, in float32 or, where it holds them in few bits, as whole
    numbers. The numbers of samples and of positions are free.

    Args:
        harness: the network's task.
        checkpoint: the network, which comes from a directory.
        folder: the directory, filled but for this file.

    Raises:
        EvaluationError: torch cannot export the network, or onnxruntime computes something else.
    """
    from rmtcli.integrations.onnx import export
    from rmtcli.integrations.transformers import tensors_of

    source, output = source_of(checkpoint), _OUTPUTS[harness.task.auto]
    network: Any = pretrained(checkpoint, harness.task).network
    network.set_attn_implementation("eager")
    network.config.use_cache = False
    names = tensors_of(network, list(checkpoint.infos))
    keep_packed(network, checkpoint, names.get)
    inputs = _inputs(network, samples=2, positions=8)
    wrapped = _Output(network, list(inputs), output).eval()
    file = folder / inside(source.home, source.path) / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    axes = {0: "batch"} if "pixel_values" in inputs else {0: "batch", 1: "sequence"}
    free = dict.fromkeys(inputs, axes) | {output: axes}
    options: Any = {
        "input_names": list(inputs),
        "output_names": [output],
        "dynamic_axes": free,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of its exporter, and of traced numbers
            export(wrapped, tuple(inputs.values()), file, **options)
    except Exception as error:  # a network's own code may raise anything
        raise EvaluationError(
            f"{checkpoint.path}: cannot be written as ONNX ({first_line(error)}): leave out "
            f"{option('onnx')}"
        ) from error
    _compare(file, wrapped, _inputs(network, samples=3, positions=13), str(checkpoint.path))


class _Output(nn.Module):
    """A model of transformers that takes tensors in order and returns one."""

    def __init__(self, network: nn.Module, inputs: list[str], output: str) -> None:
        super().__init__()
        self.network, self._inputs, self._output = network, inputs, output

    def forward(self, *values: Tensor) -> Tensor:
        """The output of this name."""
        outputs = self.network(**dict(zip(self._inputs, values, strict=True)))
        return cast(Tensor, getattr(outputs, self._output))


def _inputs(network: Any, *, samples: int, positions: int) -> dict[str, Tensor]:
    """Random tokens, the last text half as long as the others; or random images."""
    random = torch.Generator().manual_seed(0)
    config = network.config
    if "pixel_values" in inspect.signature(network.forward).parameters:
        size = config.image_size
        sides = (size, size) if isinstance(size, int) else tuple(size)
        shape = (samples, getattr(config, "num_channels", 3), *sides)
        return {"pixel_values": torch.rand(shape, generator=random)}
    shape = (samples, positions)
    mask = torch.ones(shape, dtype=torch.int64)
    mask[-1, positions // 2 :] = 0
    values = {
        "input_ids": torch.randint(config.vocab_size, shape, generator=random),
        "attention_mask": mask,
        "token_type_ids": torch.zeros(shape, dtype=torch.int64),
    }
    known = inspect.signature(network.forward).parameters
    return {name: values[name] for name in _INPUTS if name in known}


@torch.inference_mode()
def _compare(file: Path, network: nn.Module, inputs: dict[str, Tensor], source: str) -> None:
    """Run the file on inputs of another shape than it was traced with.

    Raises:
        EvaluationError: onnxruntime fails, or its outputs are not torch's.
    """
    onnxruntime: Any = import_module("onnxruntime")
    expected = network(*inputs.values()).numpy()
    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        (outputs,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    except Exception as error:  # onnxruntime has a class of its own for each failure
        raise EvaluationError(
            f"{source}: onnxruntime cannot run the graph that torch exports "
            f"({first_line(error)}): leave out {option('onnx')}"
        ) from error
    difference = _difference(expected, outputs)
    if not difference <= _TOLERANCE:
        raise EvaluationError(
            f"{source}: onnxruntime's outputs differ from torch's by {difference:.1e} of the "
            f"largest: leave out {option('onnx')}"
        )


def _difference(expected: NDArray[Any], outputs: NDArray[Any]) -> float:
    """The largest difference of two arrays, as a share of the largest expected value."""
    if expected.shape != outputs.shape:
        return float("inf")
    values: FloatArray = np.abs(expected.astype(np.float64) - outputs)
    return float(values.max() / np.abs(expected).max())
