"""Networks in few bits as ONNX: weights stay whole numbers, which ``DequantizeLinear`` multiplies.

>>> from rmtcli.integrations.onnx import export  # doctest: +SKIP
>>> model = rmtcli.load(Net(), "small.safetensors", packed=True)  # doctest: +SKIP
>>> export(model, (inputs,), "small.onnx")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from rmtcli.errors import UsageError
from rmtcli.files import as_path, check_target, write_file
from rmtcli.layouts.packed_module import PackedWeight

#: Version of ONNX's operators: the first with a scale for each block of a row, and four bits.
OPSET = 21
#: That with which torch exports; its operators mean the same in the later one.
EXPORTED = 20
#: That of networks without weights in few bits, which older engines know.
PLAIN = 17
#: Numbers that four bits hold.
FOUR_BITS = range(-8, 8)


def export(
    model: nn.Module,
    inputs: tuple[Any, ...],
    path: str | Path,
    *,
    force: bool = False,
    **options: Any,
) -> None:
    """Export a network to ONNX, weights in few bits as whole numbers.

    Each weight in few bits is a matrix of whole numbers in the file, of 4 bits where these hold
    them, else of 8, with the scales of its groups; ``DequantizeLinear`` computes the weight. All
    other weights are as torch exports them.

    Args:
        model: the network, loaded by :func:`rmtcli.load`: with ``packed=True``, weights stay in few
            bits.
        inputs: inputs of its ``forward``, with which torch traces it.
        path: the file, ending in ``.onnx``.
        force: whether an existing file may be replaced.
        options: further arguments of ``torch.onnx.export``, such as ``input_names``.

    Raises:
        UsageError: the path exists, has another ending, or cannot be written.
        ValueError: the graph takes more than 2 GB.
    """
    target = as_path(path)
    if target.suffix != ".onnx":
        raise UsageError(f"{target}: its name must end in .onnx")
    check_target(target, inputs=[], force=force)
    few = bool(_packed_weights(model))
    with TemporaryDirectory(prefix="rmtcli-") as folder, _as_codes(model), torch.no_grad():
        whole = str(Path(folder, "whole.onnx"))
        version = EXPORTED if few else PLAIN
        given = {"opset_version": version, "dynamo": False, "do_constant_folding": not few}
        torch.onnx.export(model, inputs, whole, **given | options)
        graph = onnx.load(whole)
    if few:
        _in_four_bits(graph)
    write_file(target, lambda file: file.write(graph.SerializeToString()), force=force)


class _Dequantized(torch.autograd.Function):
    """Codes times the scales of their groups; in ONNX, one operator."""

    @staticmethod
    def forward(_: Any, codes: Tensor, scales: Tensor, group: int) -> Tensor:
        """The weight, shape (rows, entries), from scales of shape (rows, groups)."""
        return codes.float() * scales.repeat_interleave(group, 1)[:, : codes.shape[1]]

    @staticmethod
    def symbolic(g: Any, codes: Any, scales: Any, group: int) -> Any:
        """The operator."""
        made = g.op("DequantizeLinear", codes, scales, axis_i=1, block_size_i=group)
        return made.setType(codes.type().with_dtype(torch.float32))


class _Codes(nn.Module):
    """A weight in few bits with a whole number for each entry, in the place of its packed words."""

    codes: Tensor
    scales: Tensor

    def __init__(self, packed: PackedWeight) -> None:
        super().__init__()
        self.group, self.columnwise = packed.group, packed.columnwise
        self.register_buffer("codes", packed.codes.to(torch.int8))
        self.register_buffer("scales", packed.scales.float())

    def forward(self, empty: Tensor) -> Tensor:
        """The weight, of the type of ``empty``."""
        made = cast(Any, _Dequantized.apply)(self.codes, self.scales, self.group)
        weight: Tensor = made.to(empty.dtype)
        return weight.T if self.columnwise else weight


def _packed_weights(model: nn.Module) -> list[tuple[ParametrizationList, int, PackedWeight]]:
    """The weights in few bits, each with the list that holds it and its index there."""
    return [
        (parts, index, part)
        for parts in model.modules()
        if isinstance(parts, ParametrizationList)
        for index, part in enumerate(parts)
        if isinstance(part, PackedWeight)
    ]


@contextmanager
def _as_codes(model: nn.Module) -> Iterator[None]:
    """Let weights in few bits be matrices of whole numbers, as long as the block runs."""
    made: dict[nn.Module, _Codes] = {}  # tied weights share one
    weights = _packed_weights(model)
    for parts, index, part in weights:
        parts[index] = made.setdefault(part, _Codes(part))
    try:
        yield
    finally:
        for parts, index, part in weights:
            parts[index] = part


def _in_four_bits(graph: onnx.ModelProto) -> None:
    """Store the codes that four bits hold in four bits, and name the version that allows it."""
    graph.ir_version = max(graph.ir_version, onnx.IR_VERSION_2024_3_25)
    for domain in graph.opset_import:
        domain.version = OPSET if domain.domain in ("", "ai.onnx") else domain.version
    nodes = (node for node in graph.graph.node if node.op_type == "DequantizeLinear")
    names = {node.input[0] for node in nodes}
    for tensor in graph.graph.initializer:
        if tensor.name in names:
            codes = numpy_helper.to_array(tensor)
            if codes.min() in FOUR_BITS and codes.max() in FOUR_BITS:
                four = onnx.TensorProto.INT4
                tensor.CopyFrom(helper.make_tensor(tensor.name, four, codes.shape, codes.ravel()))
