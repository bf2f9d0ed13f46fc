"""Factored directories in vLLM: a plug-in, which vLLM finds by its entry point.

vLLM joins the projections of queries, keys and values in one layer, and the gate of an MLP with
its other input. Each part of such a layer has its own factors, or its dense weight. For a layer of
parts i with factors Lᵢ Rᵢ, the right factors are one matrix, so that a layer costs one product of
its input and one small product per part: yᵢ = Lᵢ (R x)ᵢ.

Source: vllm-project/vllm 0.33, ``docs/design/plugin_system.md``, ``LinearMethodBase`` and
``QuantizationConfig``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from vllm.model_executor.layers.linear import (
    LinearBase,
    LinearMethodBase,
    UnquantizedLinearMethod,
)
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig

#: The method in ``quantization_config``, and its entries of layers of other kinds.
_METHOD, _OTHERS = "rmtcli", ("pivoted", "shared", "tables", "packed", "narrowed")
#: What vLLM calls the parts of joined projections.
_PARTS: dict[Any, int] = {"q": 0, "k": 1, "v": 2}


def register() -> None:
    """Let vLLM open directories with factored layers. vLLM calls it in each of its processes."""
    register_quantization_config(_METHOD)(FactoredConfig)


class FactoredConfig(QuantizationConfig):
    """The ranks of a directory's layers.

    Args:
        ranks: rank of each factored module, by its name.
    """

    def __init__(self, ranks: Mapping[str, int]) -> None:
        super().__init__()
        self.ranks = dict(ranks)

    def get_name(self) -> str:
        """The method in ``quantization_config``."""
        return _METHOD

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        """Types of inputs: all that linear layers have."""
        return [torch.bfloat16, torch.float16, torch.float32]

    @classmethod
    def get_min_capability(cls) -> int:
        """Every GPU multiplies matrices."""
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        """The entry is in ``config.json``; no further file is read."""
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FactoredConfig:
        """The entry ``quantization_config``.

        Raises:
            ValueError: the directory has layers of another kind.
        """
        others = [key for key in _OTHERS if config.get(key)]
        if others:
            raise ValueError(
                f"rmtcli: vLLM opens factored layers alone, and this model has {others[0]} ones: "
                "prune with --layout factored, or run rmtcli densify"
            )
        return cls(config["ranks"])

    def apply_vllm_mapper(self, hf_to_vllm_mapper: Any) -> None:
        """Give modules the names that they have in vLLM's model."""
        self.ranks = hf_to_vllm_mapper.apply_dict(self.ranks)

    def get_quant_method(self, layer: nn.Module, prefix: str) -> Any:
        """How a layer computes; None for what is no linear layer.

        Raises:
            ValueError: experts are factored.
        """
        parent, dot, last = prefix.rpartition(".")
        parts = self.packed_modules_mapping.get(last, [last])
        ranks = [self.ranks.get(parent + dot + part) for part in parts]
        whole = self.ranks.get(prefix)  # a layer that is joined in the file as well
        if not isinstance(layer, LinearBase):
            if any(name == prefix or name.startswith(f"{prefix}.experts.") for name in self.ranks):
                raise ValueError(f"rmtcli: vLLM does not open the factors of '{prefix}': densify")
            return None
        if whole is not None:
            return FactoredLinearMethod([whole])
        return FactoredLinearMethod(ranks) if any(ranks) else UnquantizedLinearMethod()


class FactoredLinearMethod(LinearMethodBase):
    """A linear layer of one or several parts, each of factors or dense.

    Args:
        ranks: rank of each part; None for a dense one.
    """

    def __init__(self, ranks: Sequence[int | None]) -> None:
        self.ranks = ranks

    def create_weights(
        self,
        layer: Any,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Any,
    ) -> None:
        """Make the parameters, under the names that the tensors have in the file.

        ``0.weight`` holds the right factors, one below another, ``1.weight`` the entries of all
        left factors, and ``weight`` the rows of dense parts.

        Raises:
            ValueError: the layer is divided among several GPUs, or its parts are not those of the
                directory.
        """
        outputs = [output_size] if len(self.ranks) == 1 else output_partition_sizes
        if input_size != input_size_per_partition or sum(output_partition_sizes) != output_size:
            raise ValueError("rmtcli: factored layers need --tensor-parallel-size 1")
        if len(outputs) != len(self.ranks):
            raise ValueError(
                f"rmtcli: '{layer.prefix}' has {len(outputs)} parts in vLLM and {len(self.ranks)} "
                "in the directory: run rmtcli densify"
            )
        layer.parts = _parts(outputs, self.ranks)
        layer.unread = {(kind, i) for i, part in enumerate(layer.parts) for kind in part.spans}
        last = layer.parts[-1].ends
        first, second = nn.Module(), nn.Module()
        layer.add_module("0", first)
        layer.add_module("1", second)
        _add(layer, first, "right", torch.empty(last["right"], input_size, dtype=params_dtype))
        _add(layer, second, "left", torch.empty(last["left"], dtype=params_dtype))
        if last["dense"]:
            _add(layer, layer, "dense", torch.empty(last["dense"], input_size, dtype=params_dtype))
        if getattr(layer, "has_bias", False):
            _add_bias(layer, second)

    def process_weights_after_loading(self, layer: Any) -> None:
        """Make sure that everything was read.

        Raises:
            ValueError: the directory lacks a factor, a bias or a dense part.
        """
        if layer.unread:
            kind, i = min(layer.unread)
            raise ValueError(f"rmtcli: '{layer.prefix}': the {kind} of part {i} was not read")

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The outputs of all parts, one after another."""
        core, left = linear(x, layer.get_submodule("0").weight), layer.get_submodule("1").weight
        outputs = []
        for part in layer.parts:
            if part.rank is None:
                outputs.append(linear(x, layer.weight.narrow(0, *part.spans["dense"])))
                continue
            weight = left.narrow(0, *part.spans["left"]).view(part.outputs, part.rank)
            outputs.append(linear(core.narrow(-1, *part.spans["right"]), weight))
        result = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
        return result if bias is None else result + bias


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a layer.

    Attributes:
        outputs: its outputs.
        rank: its rank; None for a dense part.
        spans: for each kind of parameter that it has a share of: where this begins, and its length
            along the first axis.
        ends: where the shares of this part and of those before it end.
    """

    outputs: int
    rank: int | None
    spans: Mapping[str, tuple[int, int]]
    ends: Mapping[str, int]


def _parts(outputs: Sequence[int], ranks: Sequence[int | None]) -> list[_Part]:
    """The parts of a layer with so many outputs and of such ranks."""
    parts, ends = list[_Part](), dict.fromkeys(("right", "left", "dense"), 0)
    for count, rank in zip(outputs, ranks, strict=True):
        sizes = {"dense": count} if rank is None else {"right": rank, "left": count * rank}
        spans = {kind: (ends[kind], size) for kind, size in sizes.items()}
        ends = {kind: end + sizes.get(kind, 0) for kind, end in ends.items()}
        parts.append(_Part(count, rank, spans, ends))
    return parts


def _add(layer: Any, module: nn.Module, kind: str, value: Tensor) -> None:
    """Register a parameter that reads one part's share at a time."""

    def load(parameter: Tensor, tensor: Tensor, shard: str | int | None = None) -> None:
        index = _index(layer, shard)
        start, length = layer.parts[index].spans[kind]
        share = parameter.data.narrow(0, start, length)
        tensor = tensor.reshape(-1) if kind == "left" else tensor
        if share.shape != tensor.shape:
            raise ValueError(
                f"rmtcli: '{layer.prefix}': the {kind} of part {index} has the shape "
                f"{tuple(tensor.shape)} in place of {tuple(share.shape)}"
            )
        share.copy_(tensor)
        layer.unread.discard((kind, index))

    parameter: Any = nn.Parameter(value, requires_grad=False)
    parameter.weight_loader = load
    module.register_parameter("weight", parameter)


def _add_bias(layer: Any, module: nn.Module) -> None:
    """Register a name by which the biases of factored parts become those of the layer."""

    def load(_: Tensor, tensor: Tensor, shard: str | int | None = None) -> None:
        shards = () if shard is None else (shard,)
        layer.bias.weight_loader(layer.bias, tensor, *shards)
        layer.unread.discard(("bias", _index(layer, shard)))

    parameter: Any = nn.Parameter(torch.empty(0), requires_grad=False)
    parameter.weight_loader = load
    module.register_parameter("bias", parameter)
    layer.unread |= {("bias", i) for i, part in enumerate(layer.parts) if part.rank is not None}


def _index(layer: Any, shard: str | int | None) -> int:
    """The number of a part, by vLLM's name for it.

    Raises:
        ValueError: a tensor holds several parts of the layer.
    """
    index = 0 if shard is None and len(layer.parts) == 1 else _PARTS.get(shard, shard)
    if not isinstance(index, int):
        raise ValueError(
            f"rmtcli: '{layer.prefix}': a tensor holds several of its parts: run rmtcli densify"
        )
    return index
