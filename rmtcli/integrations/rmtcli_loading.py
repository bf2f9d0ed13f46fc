"""Loads models with factored layers into transformers; needs torch and transformers, not rmtcli.

rmtcli copies this file into every factored directory that it writes. ``config.json`` names it under
``auto_map``, so ``from_pretrained(directory, trust_remote_code=True)`` imports it; ``import
rmtcli.integrations.transformers`` has the same effect. On import, it registers the quantization
method ``rmtcli``, which replaces each factored layer by two linear maps, and gives layers beside
narrower hidden layers their shapes, before transformers loads the weights. It works with
transformers 4.57 and 5.
"""

from __future__ import annotations

import functools
import json
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from transformers.pytorch_utils import Conv1D
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.utils.quantization_config import QuantizationConfigMixin

try:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        ConversionOps,
        WeightConverter,
        WeightRenaming,
        rename_source_key,
    )
except ImportError:  # transformers 4 has no transforms of names and joins no experts
    get_model_conversion_mapping, ConversionOps = None, object

#: A module of a transformers model; its attributes depend on the model.
Module = Any
#: Version of the entry ``quantization_config`` that this file reads and writes.
VERSION = 4
METHOD = "rmtcli"
#: What ``config.json`` has in place of a file's name, for programs that do not know the method.
HOW = (
    "rmtcli changed its layers: first 'import rmtcli.integrations.transformers', or pass "
    "trust_remote_code=True"
)
#: The attribute in which transformers 5 keeps the names of tied weights.
_TIES = "all_tied_weights_keys"
#: The attribute in which transformers looks for the name of the file that holds the weights.
_WEIGHTS = "transformers_weights"
#: Classes of models that write the product of ``nn.Linear`` out.
_LINEAR = ("FalconLinear",)
#: The number by which some models multiply the rows of a table, as their tables call it.
_SCALE = "embed_scale"


class Product(Tensor):
    """The weight of a split layer, computed only when its entries are needed.

    T5 models read ``wo.weight.dtype`` in every forward pass: computing the weight for that would
    make them slower than dense models.

    Args:
        layer: the layer.
    """

    _is_hf_initialized = True  # keeps transformers from initialising it at random

    def __new__(cls, layer: Split) -> Any:
        """An empty tensor of the weight's shape and type that knows the layer."""
        shape = (layer.out_features, layer.in_features)
        like = layer.right.weight
        empty = torch.empty(
            shape[::-1] if layer.transposed else shape, dtype=like.dtype, device="meta"
        )
        self: Any = torch.Tensor._make_subclass(cls, empty)
        self.layer = layer
        return self

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Answer for shape, type and device directly; compute the weight for anything else."""
        of_product: tuple[Any, ...] = (Tensor.dtype, Tensor.shape, Tensor.ndim)
        of_factors: tuple[Any, ...] = (Tensor.device, Tensor.is_meta)
        if func in [attribute.__get__ for attribute in of_product]:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args)
        if func in [attribute.__get__ for attribute in of_factors]:
            return func(args[0].layer.left.weight)
        args, kwargs = tree_map_only(Product, Product.computed, (args, kwargs or {}))
        return func(*args, **kwargs)

    def computed(self: Any) -> Tensor:
        """The weight as an ordinary tensor."""
        weight: Tensor = self.layer.product()
        return weight


class Split(nn.Module):
    """Two modules in place of one, whose weight is a function of theirs."""

    #: Names of the two modules, and of their tensors.
    first, second = "0", "1"
    leaves: tuple[str, ...] = ("0.weight", "1.weight")
    in_features: int
    out_features: int
    transposed: bool

    @property
    def right(self) -> Module:
        """The first module."""
        return self._modules[self.first]

    @property
    def left(self) -> Module:
        """The second module."""
        return self._modules[self.second]

    @property
    def weight(self) -> Tensor:
        """The whole weight, in the dense layer's orientation, computed at each use.

        Code that multiplies by the weight instead of calling the layer works, but is not faster.
        """
        if torch.compiler.is_compiling():
            return self.product()
        product: Tensor = Product(self)
        return product

    def product(self, *, exact: bool = False) -> Tensor:
        """The whole weight, in the dense layer's orientation.

        Args:
            exact: whether to multiply in float64, which the result then has.
        """
        right, left = self.right.weight, self.left.weight
        product = self.combine(
            *(w.detach().double() for w in (left, right)) if exact else (left, right)
        )
        return product.T if self.transposed else product

    def combine(self, left: Tensor, right: Tensor) -> Tensor:
        """The weight, shape (out, in), from the weights of the second and the first module."""
        raise NotImplementedError

    def dense(self) -> Module:
        """One module of the original class with the whole weight."""
        raise NotImplementedError

    def _dense_weight(self) -> nn.Parameter:
        """The whole weight in the precision of the factors.

        Raises:
            ValueError: the weights are not in memory.
        """
        weight = self.left.weight
        if weight.is_meta or self.right.weight.is_meta:
            raise ValueError("rmtcli: offloaded weights cannot be multiplied: load them whole")
        return nn.Parameter(self.product(exact=True).to(weight.dtype).contiguous())


class SplitLinear(Split):
    """Two linear maps in place of one ``nn.Linear`` or ``Conv1D``.

    A layer that shares the first map of a sibling holds only its own second map, so that each
    weight has one name, and is stored and counted once.

    Args:
        layer: the dense layer.
        rank: number of outputs of the first map.
        rows: number of outputs of the second map.
    """

    def __init__(self, layer: Module, rank: int, rows: int) -> None:
        super().__init__()
        weight = layer.weight
        transposed = isinstance(layer, Conv1D)
        outputs, inputs = reversed(weight.shape) if transposed else weight.shape
        storage = {"device": weight.device, "dtype": weight.dtype}
        self.add_module(self.first, nn.Linear(inputs, rank, bias=False, **storage))
        left = nn.Linear(rank, max(rows, 1), bias=False, **storage)
        if rows == 0:  # all outputs are those of the first map
            left.weight = nn.Parameter(left.weight[:0])
        self.add_module(self.second, left)
        self.in_features, self.out_features, self.transposed = inputs, outputs, transposed
        self.sibling: tuple[SplitLinear, ...] = ()  # in a tuple, it is not a submodule
        self.train(layer.training)

    def share(self, sibling: SplitLinear) -> None:
        """Use the first map of a sibling, including its adapter, in place of an own one."""
        del self._modules[self.first]
        self.sibling = (sibling,)

    @property
    def right(self) -> Module:
        """The first map, from inputs to ``rank`` values."""
        return (self.sibling or (self,))[0]._modules[self.first]

    def dense(self) -> Module:
        """One layer of the original class with the whole weight."""
        weight = self._dense_weight()
        with torch.device("meta"):
            if self.transposed:
                layer: Module = Conv1D(self.out_features, self.in_features)
            else:
                layer = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        layer.weight, layer.bias = weight, self.bias
        return layer.train(self.training)


class FactoredLinear(SplitLinear, nn.Sequential):
    """A right and a left factor, named ``0`` and ``1``.

    Args:
        layer: the dense layer.
        rank: number of values between the two maps.
    """

    leaves = ("0.weight", "1.weight", "1.bias")

    def __init__(self, layer: Module, rank: int) -> None:
        outputs = layer.weight.shape[isinstance(layer, Conv1D)]
        super().__init__(layer, rank, outputs)
        if layer.bias is not None:
            self.left.bias = nn.Parameter(torch.empty_like(layer.bias))

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the first map, then the second."""
        outputs: Tensor = self.left(self.right(inputs))
        return outputs

    def combine(self, left: Tensor, right: Tensor) -> Tensor:
        """The product of the factors."""
        return left @ right

    @property
    def bias(self) -> Tensor | None:
        """The bias of the second map."""
        return self.left.bias  # type: ignore[no-any-return]


class PivotedLinear(SplitLinear):
    """Some rows of a weight, named ``pivot``, and the other rows as combinations of these.

    Args:
        layer: the dense layer.
        rank: number of pivot rows.
        rows: number of other rows.
    """

    first, second = "pivot", "rest"
    leaves = ("pivot.weight", "rest.weight", "order", "bias")
    order: Tensor

    def __init__(self, layer: Module, rank: int, rows: int) -> None:
        super().__init__(layer, rank, rows)
        order = torch.arange(self.out_features, dtype=torch.int32, device=layer.weight.device)
        self.register_buffer("order", order)
        self.bias = None if layer.bias is None else nn.Parameter(torch.empty_like(layer.bias))

    def forward(self, inputs: Tensor) -> Tensor:
        """The outputs of the pivot rows and of the others, in the layer's order, plus the bias."""
        core = self.right(inputs)
        parts = (core, self.left(core)) if len(self.left.weight) else (core,)
        joined = torch.cat(parts, -1)
        # torch orders the columns of a matrix many times faster than those of more dimensions.
        rows = joined.reshape(-1, joined.shape[-1])
        outputs = rows.index_select(-1, self.order)
        if self.bias is not None:
            # The outputs are a copy of their own, and no gradient needs them: one pass less.
            outputs = outputs.add_(self.bias)
        return outputs.view(*joined.shape[:-1], outputs.shape[-1])

    def combine(self, left: Tensor, right: Tensor) -> Tensor:
        """All rows of the weight."""
        return torch.cat([right, left @ right]).index_select(0, self.order)


class SplitTable(Split):
    """A table of few columns and a linear map, in place of a table or of a head that holds one.

    Of modules that are tied to each other, one holds the two; the others call these, so that
    nothing is missing when weights are loaded, and nothing is stored twice.

    Args:
        layer: the dense table or head.
        rank: number of columns.
        owner: the module that holds the two; None for this one.
    """

    transposed = False

    def __init__(self, layer: Module, rank: int, owner: SplitTable | None = None) -> None:
        super().__init__()
        weight, padding = layer.weight, getattr(layer, "padding_idx", None)
        storage = {"device": weight.device, "dtype": weight.dtype}
        self.out_features, self.in_features = weight.shape
        if owner is None:
            self.add_module("0", nn.Embedding(len(weight), rank, padding, **storage))
            self.add_module("1", nn.Linear(rank, weight.shape[1], bias=False, **storage))
        # In tuples, these are not submodules.
        self.owner: tuple[SplitTable, ...] = () if owner is None else (owner,)
        self.original = (layer,)
        layer.weight = nn.Parameter(weight.to("meta"), requires_grad=False)
        self.train(layer.training)

    @property
    def right(self) -> Module:
        """The table of few columns."""
        return (self.owner or (self,))[0]._modules[self.first]

    @property
    def left(self) -> Module:
        """The linear map from these columns."""
        return (self.owner or (self,))[0]._modules[self.second]

    @property
    def weight(self) -> Tensor:
        """The whole table, computed at each use."""
        return super().weight

    @weight.setter
    def weight(self, value: Any) -> None:
        """Do nothing where transformers ties this module to one that has these factors already.

        Raises:
            ValueError: the value is any other tensor.
        """
        if not isinstance(value, Product) or value.layer.right is not self.right:  # type: ignore[attr-defined]
            raise ValueError("rmtcli: a factored table takes no new weight: load it dense")

    def combine(self, left: Tensor, right: Tensor) -> Tensor:
        """The whole table, one row per token."""
        return right @ left.T

    def dense(self) -> Module:
        """The original module with the whole table, which tied modules share again."""
        owner = (self.owner or (self,))[0].__dict__
        owner["whole"] = owner["whole"] if "whole" in owner else self._dense_weight()
        layer: Module = self.original[0]
        layer.weight = owner["whole"]
        return layer.train(self.training)


class FactoredTable(SplitTable):
    """A table of tokens as two factors."""

    def __init__(self, layer: Module, rank: int, owner: SplitTable | None = None) -> None:
        super().__init__(layer, rank, owner)
        self.num_embeddings, self.embedding_dim = layer.num_embeddings, layer.embedding_dim
        self.padding_idx, self.scale = layer.padding_idx, float(getattr(layer, _SCALE, 1.0))

    def forward(self, tokens: Tensor) -> Tensor:
        """Look up rows of few values, and map them."""
        rows: Tensor = self.left(self.right(tokens))
        return rows if self.scale == 1.0 else rows * self.scale


class FactoredHead(SplitTable):
    """An output head that is tied to a table as two factors."""

    def __init__(self, layer: Module, rank: int, owner: SplitTable | None = None) -> None:
        super().__init__(layer, rank, owner)
        self.bias = layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """The scores of all tokens."""
        few = nn.functional.linear(inputs, self.left.weight.T)
        return nn.functional.linear(few, self.right.weight, self.bias)

    def dense(self) -> Module:
        """The original head with the whole table."""
        layer = super().dense()
        layer.bias = self.bias
        return layer


def _in_place_of(layer: Module, rank: int, owner: SplitTable | None = None) -> SplitTable | None:
    """The module in place of a table or a head; None for a module of another kind."""
    if _is_table(layer):
        return FactoredTable(layer, rank, owner)
    return FactoredHead(layer, rank, owner) if type(layer) is nn.Linear else None


def _is_linear(layer: Module) -> bool:
    """Whether a module computes what ``nn.Linear`` does, or ``Conv1D``."""
    plain = type(layer).forward in (nn.Linear.forward, Conv1D.forward)
    return plain or type(layer).__name__ in _LINEAR


def _is_table(layer: Module) -> bool:
    """Whether a module looks rows up, and does nothing else but multiply them by a number."""
    scaled = type(layer).__name__.endswith("ScaledWordEmbedding") and hasattr(layer, _SCALE)
    plain = type(layer).forward is nn.Embedding.forward
    return isinstance(layer, nn.Embedding) and layer.max_norm is None and (plain or scaled)


class FactoredExperts(nn.Module):
    """Experts as separate linear maps, in place of the 3-D weights that transformers 5 uses.

    The maps are named as in the checkpoint: ``0.w1``, ``0.w2``, …

    Args:
        joined: the module that holds ``gate_up_proj`` and ``down_proj``.
        leaves: names of an expert's gate, up and down map.
        split: makes the module for a map that is split, given the dense one and ``index.leaf``;
            None for any other map.
    """

    def __init__(
        self,
        joined: Module,
        leaves: Iterable[str],
        split: Callable[[Module, str], Split | None],
    ) -> None:
        super().__init__()
        self.leaves = tuple(leaves)
        self.joined = (joined,)  # in a tuple, it is not a submodule; its weights stay empty
        count, hidden, inner = joined.down_proj.shape
        storage = {"device": joined.down_proj.device, "dtype": joined.down_proj.dtype}
        for index in range(count):
            expert = nn.Module()
            sides = ((hidden, inner), (hidden, inner), (inner, hidden))
            for leaf, (inputs, outputs) in zip(self.leaves, sides, strict=True):
                layer: Module = nn.Linear(inputs, outputs, bias=False, **storage)
                expert.add_module(leaf, split(layer, f"{index}.{leaf}") or layer)
            self.add_module(str(index), expert)
        self.train(joined.training)

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Send each token through its experts, and sum their weighted outputs.

        Args:
            hidden_states: shape (tokens, hidden).
            top_k_index: shape (tokens, k), the experts of each token.
            top_k_weights: shape (tokens, k), the weights of these experts.
        """
        joined, result = self.joined[0], torch.zeros_like(hidden_states)
        for index, (gate, up, down) in enumerate(self._maps()):
            token, choice = torch.where(top_k_index == index)
            tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
            if not (tracing or torch.compiler.is_compiling()) and len(token) == 0:
                continue
            inputs = hidden_states[token]
            inner = joined._apply_gate(torch.cat([gate(inputs), up(inputs)], dim=-1))
            outputs = down(inner) * top_k_weights[token, choice, None]
            result.index_add_(0, token, outputs.to(result.dtype))
        return result

    def dense(self) -> Module:
        """The original module, with the products as its joined weights."""
        joined = self.joined[0]
        maps = [
            [layer.dense() if isinstance(layer, Split) else layer for layer in expert]
            for expert in self._maps()
        ]
        gates = [torch.cat([gate.weight, up.weight]) for gate, up, _ in maps]
        joined.gate_up_proj = nn.Parameter(torch.stack(gates).detach())
        joined.down_proj = nn.Parameter(torch.stack([down.weight for *_, down in maps]).detach())
        return joined.train(self.training)

    def _maps(self) -> list[list[Module]]:
        return [[getattr(expert, leaf) for leaf in self.leaves] for expert in self.children()]


class Unpack(ConversionOps):
    """Makes a weight of its codes, scales and shape, which transformers reads from the file.

    It keeps the scales, so that a weight that has not changed is saved as it was stored.

    Args:
        bits: bits per code.
        group: codes of a row that share a scale.
        name: the weight's name in the model.
        stored: its name in the checkpoint.
    """

    def __init__(self, bits: int, group: int, name: str, stored: str) -> None:
        self.bits, self.group, self.name, self.stored = bits, group, name, stored
        self.scales: Tensor | None = None
        self.columnwise = False

    def __deepcopy__(self, memo: Any) -> Unpack:
        """This object: transformers loads with a copy, and saves with the original."""
        return self

    def convert(
        self, parts: Mapping[str, Any], *, full_layer_name: str, model: Module, **kwargs: Any
    ) -> dict[str, Tensor]:
        """The weight under its full name, in the model's type."""
        tensors = [each[0] if isinstance(each, list) else each for each in parts.values()]
        by_kind = {tensor.dtype: tensor for tensor in tensors}
        words, shape = by_kind[torch.int32], by_kind[torch.int64].tolist()
        (scales,) = (tensor for tensor in tensors if tensor.is_floating_point())
        self.scales, self.columnwise = scales.clone(), len(words) != shape[0]
        entries = shape[0] if self.columnwise else shape[1]
        weight = codes_of(words, self.bits, entries) * self._spread(entries)
        dtype = model.get_parameter(full_layer_name).dtype
        return {full_layer_name: (weight.T if self.columnwise else weight).contiguous().to(dtype)}

    def _spread(self, entries: int) -> Tensor:
        """The scale of each code."""
        assert self.scales is not None
        return self.scales.float().repeat_interleave(self.group, dim=1)[:, :entries]

    def codes(self, weight: Tensor | None) -> Tensor | None:
        """The codes that stand for a weight exactly; None if it has changed since it was loaded."""
        if self.scales is None or weight is None or weight.is_meta:
            return None
        rows = (weight.T if self.columnwise else weight).detach()
        each = self._spread(rows.shape[1]).to(rows.device)
        half = 2 ** (self.bits - 1)
        codes = (rows.float() / each).round().nan_to_num(0, 0, 0).clamp(-half, half - 1)
        return codes.to(torch.int8) if torch.equal((codes * each).to(rows.dtype), rows) else None

    @property
    def reverse_op(self) -> ConversionOps:
        """What transformers does with the weight when it saves the model."""
        return Pack(self)


class Pack(ConversionOps):
    """Makes codes, scales and shape of a weight: the inverse of :class:`Unpack`."""

    def __init__(self, reverse_op: Unpack) -> None:
        self._unpack = reverse_op

    @property
    def reverse_op(self) -> ConversionOps:
        """Its inverse."""
        return self._unpack

    def convert(
        self, parts: Mapping[str, Any], source_patterns: Any, target_patterns: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """The three tensors of the file."""
        ((weight,),) = parts.values()
        codes, scales = self._unpack.codes(weight), self._unpack.scales
        assert codes is not None
        assert scales is not None
        shape = torch.tensor(weight.shape, dtype=torch.int64)
        tensors = (words_of(codes, self._unpack.bits), scales, shape)
        return dict(zip(target_patterns, tensors, strict=True))


#: Codes that are converted at a time.
_BLOCK = 2**20


def codes_of(words: Tensor, bits: int, entries: int) -> Tensor:
    """Codes from a stream of bits in words, the low bits first.

    Args:
        words: shape (rows, words), int32.
        bits: bits per code.
        entries: codes in a row.

    Returns:
        Shape (rows, entries), int8.
    """
    starts = torch.arange(entries, device=words.device) * bits
    first, offset = starts // 32, starts % 32
    second = (first + 1).clamp(max=words.shape[1] - 1)
    codes = torch.empty(len(words), entries, dtype=torch.int8, device=words.device)
    step = max(1, _BLOCK // entries)
    for row in range(0, len(words), step):
        stream = words[row : row + step].long() & 0xFFFFFFFF
        both = stream[:, first] | (stream[:, second] << 32)
        codes[row : row + step] = ((both >> offset) & (2**bits - 1)) - 2 ** (bits - 1)
    return codes


def words_of(codes: Tensor, bits: int) -> Tensor:
    """Words with a stream of bits from codes: the inverse of :func:`codes_of`."""
    rows, entries = codes.shape
    starts = torch.arange(entries, device=codes.device) * bits
    first, offset = starts // 32, starts % 32
    count = -(-entries * bits // 32)
    words = torch.empty(rows, count, dtype=torch.int32, device=codes.device)
    step = max(1, _BLOCK // entries)
    for row in range(0, rows, step):
        shifted = (codes[row : row + step].long() + 2 ** (bits - 1)) << offset
        stream = shifted.new_zeros(len(shifted), count + 1)
        stream.index_add_(1, first, shifted & 0xFFFFFFFF)
        stream.index_add_(1, first + 1, shifted >> 32)
        low = stream[:, :count]
        words[row : row + step] = torch.where(low < 2**31, low, low - 2**32)
    return words


def _checked_tables(tables: Any, ranks: Mapping[str, int]) -> Mapping[str, list[str]]:
    """The entry ``tables`` of ``quantization_config``.

    Raises:
        ValueError: it is no such entry, or names a layer that has no rank.
    """
    if not isinstance(tables, Mapping) or not all(
        name in ranks and isinstance(others, list) for name, others in tables.items()
    ):
        raise ValueError(
            "rmtcli: 'tables' under quantization_config in config.json must give, for layers that "
            "have a rank, a list of other modules"
        )
    return tables


class RmtcliConfig(QuantizationConfigMixin):
    """The entry ``quantization_config`` of ``config.json``.

    Args:
        ranks: rank of each factored layer, by its name in the dense checkpoint.
        shared: for each layer without a first map of its own, the layer whose map it uses.
        pivoted: for each layer that is stored as pivot rows, the number of its other rows.
        packed: for each tensor that is stored in few bits, their number and the size of a group.
        tables: for each table of tokens, or head that holds one, the modules that have a weight of
            its shape and are not tied to it.
        narrowed: for each layer beside a hidden layer whose width is its own, (out, in) by the
            model's configuration (``from``) and of its weight (``to``).
        version: version of this entry's format.
        dequantize: whether to multiply the factors into dense layers after loading.
        others: further entries, which are kept and written again.

    Raises:
        ValueError: the version is newer than this file, or an entry is invalid.
    """

    newest = VERSION

    def __init__(
        self,
        ranks: Mapping[str, int] | None = None,
        shared: Mapping[str, str] | None = None,
        pivoted: Mapping[str, int] | None = None,
        packed: Mapping[str, Mapping[str, int]] | None = None,
        tables: Mapping[str, list[str]] | None = None,
        narrowed: Mapping[str, Mapping[str, list[int]]] | None = None,
        version: int = VERSION,
        dequantize: bool = False,
        **others: Any,
    ) -> None:
        if type(version) is not int or version > VERSION:
            raise ValueError(
                f"rmtcli: the model is in version {version} of the format, and this rmtcli knows "
                f"{VERSION}: update rmtcli, or load with trust_remote_code=True without it"
            )
        if not isinstance(ranks, Mapping) or not all(
            type(rank) is int and rank > 0 for rank in ranks.values()
        ):
            raise ValueError(
                "rmtcli: 'ranks' under quantization_config in config.json must give each factored "
                "layer a positive whole number"
            )
        shared = {} if shared is None else shared
        if not isinstance(shared, Mapping) or not all(
            type(other) is str and other not in shared and ranks.get(name) == ranks.get(other, 0)
            for name, other in shared.items()
        ):
            raise ValueError(
                "rmtcli: 'shared' under quantization_config in config.json must name, for each "
                "layer without a first map, one of the same rank that has one"
            )
        pivoted = _checked_rows({} if pivoted is None else pivoted, ranks)
        packed = {} if packed is None else _checked_grids(packed)
        tables = _checked_tables({} if tables is None else tables, ranks)
        narrowed = {} if narrowed is None else _checked_shapes(narrowed)
        kinds = {"shared": shared, "pivoted": pivoted, "packed": packed, "tables": tables}
        kinds["narrowed"] = narrowed
        self.__dict__.update(
            others,
            quant_method=METHOD,
            ranks=dict(ranks),
            version=version,
            **{name: dict(value) for name, value in kinds.items() if value},
        )
        self.dequantize = dequantize

    def split(self, layer: Module, name: str) -> Split | None:
        """The module for a layer of the checkpoint; None if it is not factored."""
        if name not in self.ranks:
            return None
        if name in getattr(self, "tables", ()):
            return _in_place_of(layer, self.ranks[name])
        rows = getattr(self, "pivoted", {}).get(name)
        rank = self.ranks[name]
        return FactoredLinear(layer, rank) if rows is None else PivotedLinear(layer, rank, rows)

    def to_dict(self) -> dict[str, Any]:
        """The entry as written to ``config.json``, without ``dequantize``."""
        return {name: value for name, value in super().to_dict().items() if name != "dequantize"}

    def to_diff_dict(self) -> dict[str, Any]:
        """The whole entry: no field has a default that may be left out."""
        return self.to_dict()


def _checked_rows(pivoted: Any, ranks: Mapping[str, int]) -> Mapping[str, int]:
    """The entry ``pivoted``, if it is one.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(pivoted, Mapping) or not all(
        name in ranks and type(rows) is int and rows >= 0 for name, rows in pivoted.items()
    ):
        raise ValueError(
            "rmtcli: 'pivoted' under quantization_config in config.json must give the number of "
            "other rows of layers that have a rank"
        )
    return pivoted


def _checked_grids(packed: Any) -> Mapping[str, Mapping[str, int]]:
    """The entry ``packed``, if it is one.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(packed, Mapping) or not all(
        isinstance(entry, Mapping)
        and all(type(entry.get(name)) is int and entry[name] > 0 for name in ("bits", "group"))
        and entry["bits"] <= 8
        for entry in packed.values()
    ):
        raise ValueError(
            "rmtcli: 'packed' under quantization_config in config.json must give the bits and the "
            "group of each tensor that is stored in few bits"
        )
    return packed


def _checked_shapes(narrowed: Any) -> Mapping[str, Mapping[str, list[int]]]:
    """The entry ``narrowed``, if it is one.

    Raises:
        ValueError: it is not.
    """

    def is_shape(value: Any) -> bool:
        sides = isinstance(value, list | tuple) and len(value) == 2
        return sides and all(type(side) is int and side > 0 for side in value)

    if not isinstance(narrowed, Mapping) or not all(
        isinstance(entry, Mapping)
        and all(is_shape(entry.get(name)) for name in ("from", "to"))
        and all(new <= old for new, old in zip(entry["to"], entry["from"], strict=True))
        for entry in narrowed.values()
    ):
        raise ValueError(
            "rmtcli: 'narrowed' under quantization_config in config.json must give the dense shape "
            "('from') and the shape ('to') of each layer beside a narrower hidden layer"
        )
    return narrowed


def _sides(layer: Module) -> tuple[int, int]:
    """(out, in) of a linear layer or ``Conv1D``."""
    rows, columns = layer.weight.shape
    return (columns, rows) if isinstance(layer, Conv1D) else (rows, columns)


def _resize(layer: Module, outputs: int, inputs: int, *, fill: bool = False) -> None:
    """Give a linear layer or ``Conv1D`` another shape.

    Args:
        layer: the layer.
        outputs: its new number of outputs.
        inputs: its new number of inputs.
        fill: whether it keeps its values, and gets zeros beside them; they are lost otherwise.
    """
    transposed = isinstance(layer, Conv1D)
    shapes = {"weight": (inputs, outputs) if transposed else (outputs, inputs), "bias": (outputs,)}
    for key, shape in shapes.items():
        old = getattr(layer, key, None)
        if old is None or old.shape == shape:
            continue
        new = old.detach().new_zeros(shape) if fill else old.detach().new_empty(shape)
        if fill:
            new[tuple(map(slice, old.shape))] = old.detach()
        setattr(layer, key, nn.Parameter(new, requires_grad=old.requires_grad))
    names = ("nf", "nx") if transposed else ("out_features", "in_features")
    for name, side in zip(names, (outputs, inputs), strict=True):
        setattr(layer, name, side)


@dataclass(frozen=True)
class _Location:
    """Where the model holds a layer of the checkpoint.

    Attributes:
        module: name of the layer's module, or of the experts that transformers joins it with.
        leaves: names of an expert's gate, up and down map; empty for a layer of its own.
        joined: the names under which transformers would load the joined weights.
    """

    module: str
    leaves: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()

    def full(self, name: str) -> str:
        """Name of the module of the layer itself, which the checkpoint calls ``name``."""
        return ".".join((self.module, *name.rsplit(".", 2)[1:])) if self.leaves else self.module


class _NameMap:
    """From names in a checkpoint to names in a model, as transformers maps them when it loads.

    Transformers 5 describes the mapping by transforms: a renaming changes a name, and a converter
    joins several tensors into one, such as the experts' weights. Transformers 4 only renames, by
    patterns that belong to the model's class. Both add or remove the prefix of the base model.

    Args:
        model: the model, before its weights are loaded.
        transforms: transformers' transforms of names; empty for transformers 4.
        tables: the layers that may be tables of tokens.
    """

    def __init__(self, model: Module, transforms: list[Any], tables: Collection[str] = ()) -> None:
        self.tables = tables
        self.model, self.prefix = model, f"{model.base_model_prefix}."
        self.state = model.state_dict()
        self.renamings = [item for item in transforms if not hasattr(item, "operations")]
        self.converters = [item for item in transforms if hasattr(item, "operations")]

    def find(self, key: str) -> tuple[str, Any]:
        """Map the name of one tensor.

        Args:
            key: the tensor's name in the checkpoint.

        Returns:
            Its name in the model, and the converter that joins it with other tensors, or None.
        """
        if get_model_conversion_mapping is None:
            return self._renamed_by_class(key), None
        prefix = self.model.base_model_prefix
        name, pattern = rename_source_key(key, self.renamings, self.converters, prefix, self.state)
        if name not in self.state and key in self.state:
            name, pattern = rename_source_key(key, [], [], prefix, self.state)
        return name, next((c for c in self.converters if pattern in c.source_patterns), None)

    def _renamed_by_class(self, key: str) -> str:
        """The name in the model, as transformers 4 finds it."""
        patterns = getattr(self.model, "_checkpoint_conversion_mapping", None) or {}
        for pattern, new in patterns.items():
            key, count = re.subn(pattern, new, key)
            if count:
                break
        options = (key, key.removeprefix(self.prefix), self.prefix + key)
        return next((name for name in options if name in self.state), key)

    def locate(self, name: str, names: Iterable[str]) -> _Location | None:
        """Find a layer in the model.

        Args:
            name: the layer's name in the checkpoint.
            names: names of all layers that are looked for.

        Returns:
            Its location; None if the model was built without the part that holds the layer.

        Raises:
            ValueError: the model should have the layer and does not, or the layer cannot be
                factored.
        """
        tensor, converter = self.find(f"{name}.weight")
        if converter is not None:
            return self.locate_expert(name, tensor, converter)
        if tensor not in self.state:
            if self.leaves_out(name, names):
                return None
            raise ValueError(
                f"rmtcli: config.json changes '{name}', and {type(self.model).__name__} "
                f"of transformers {transformers.__version__} has no such layer"
            )
        module = tensor.removesuffix(".weight")
        layer = self.model.get_submodule(module)
        table = name in self.tables and _is_table(layer)
        if not (table or _is_linear(layer)):
            raise ValueError(
                f"rmtcli: config.json changes '{name}', which is not a linear layer in "
                f"{type(self.model).__name__} but {type(layer).__name__}"
            )
        return _Location(module)

    def leaves_out(self, name: str, names: Iterable[str]) -> bool:
        """Whether the model was built without the part that holds a layer.

        A bare encoder has no head; a model with a head may set a part, such as the pooler, to None.
        """
        headed = any(other.startswith(self.prefix) for other in names)
        if self.model.base_model is self.model and headed and not name.startswith(self.prefix):
            return True
        options = (name, name.removeprefix(self.prefix), self.prefix + name)
        return any(self._is_none(option) for option in options)

    def _is_none(self, name: str) -> bool:
        """Whether the model, or a module on the way to ``name``, has None as its next part."""
        module: Any = self.model
        for part in name.split("."):
            if not hasattr(module, part):
                return False
            module = getattr(module, part)
            if module is None:
                return True
        return False

    def locate_expert(self, name: str, tensor: str, converter: Any) -> _Location:
        """Find the experts that one expert's layer is joined with.

        Args:
            name: the layer's name in the checkpoint.
            tensor: the joined weight's name in the model.
            converter: what joins it.

        Raises:
            ValueError: the experts cannot be taken apart.
        """
        module = tensor.rpartition(".")[0]
        stem = converter.target_patterns[0].rpartition(".")[0]
        converters = {
            target.rpartition(".")[2]: item
            for item in self.converters
            for target in item.target_patterns
            if target.rpartition(".")[0] == stem
        }
        if not _separable(self.model.get_submodule(module), converters):
            raise ValueError(
                f"rmtcli: transformers {transformers.__version__} joins '{name}' with other "
                f"weights into {tensor}, where two factors cannot be stored: use the dense layout"
            )
        patterns = [p for leaf in _JOINED for p in converters[leaf].source_patterns]
        leaves = tuple(pattern.removesuffix(".weight").rpartition(".")[2] for pattern in patterns)
        return _Location(module, leaves, tuple(c.target_patterns[0] for c in converters.values()))


#: Names of the weights of joined experts that can be taken apart, and the operations that join
#: them: gate and up projection in one tensor, down projection in another.
_JOINED = {
    "gate_up_proj": ["MergeModulelist", "Concatenate"],
    "down_proj": ["MergeModulelist"],
}
#: What such experts say of themselves.
_PLAIN_EXPERTS = {
    "has_gate": True,
    "is_concatenated": True,
    "is_transposed": False,
    "has_bias": False,
}


def _separable(experts: Module, converters: Mapping[str, Any]) -> bool:
    """Whether joined experts are plain linear maps, stacked and concatenated, and nothing more.

    Args:
        experts: the module that holds the joined weights.
        converters: what joins them, by the name of the joined weight.
    """
    operations = {
        leaf: [type(operation).__name__ for operation in item.operations]
        for leaf, item in converters.items()
    }
    return (
        operations == _JOINED
        and dict(experts.named_parameters()).keys() == _JOINED.keys()
        and all(getattr(experts, name, None) is value for name, value in _PLAIN_EXPERTS.items())
        and not getattr(experts, "has_post_expert_norm", False)
    )


class RmtcliQuantizer(HfQuantizer):
    """Replaces layers by their factored form before transformers loads the weights."""

    requires_calibration = True  # transformers itself cannot factor a dense model
    is_trainable = True
    is_qat_trainable = True  # factors are ordinary parameters and need no adapters
    is_compileable = True

    def __init__(self, quantization_config: QuantizationConfigMixin, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self._renamings: list[Any] = []  # for factors that transformers would not find otherwise
        self._ties: dict[str, str] = {}  # tied weights that are factored
        self._apart: set[str] = set()  # joined weights whose experts stay separate
        self._unpack: list[Any] = []  # what makes weights of tensors in few bits
        self._widths: dict[str, tuple[int, int]] = {}  # dense shapes of layers with other ones

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """True: ``save_pretrained`` writes the factors under the checkpoint's names."""
        return True

    def update_weight_conversions(self, weight_conversions: list[Any], *args: Any) -> list[Any]:
        """Transforms of names, without those that would join experts that stay separate."""
        kept = (item for item in weight_conversions if item.target_patterns[0] not in self._apart)
        return [*self._renamings, *kept, *self._unpack]

    def get_new_dtype(self, converter: Any, param: Any, dtype: Any) -> Any:
        """The type in which a tensor is read: scales stay as stored, so that weights are exact."""
        unpacks = any(isinstance(op, Unpack) for op in getattr(converter, "operations", ()))
        return None if unpacks else super().get_new_dtype(converter, param, dtype)

    def _process_model_before_weight_loading(self, model: Module, **kwargs: Any) -> None:
        ranks = self.quantization_config.ranks
        packed = getattr(self.quantization_config, "packed", {})
        if packed and get_model_conversion_mapping is None:
            raise ValueError(
                "rmtcli: weights in few bits need transformers 5: update transformers, or run "
                "'rmtcli densify' on the directory"
            )
        transforms = _transforms(model)
        tables = getattr(self.quantization_config, "tables", {})
        names = _NameMap(model, transforms, tables)
        self._narrow(model, names)
        located = {name: names.locate(name, ranks) for name in ranks}
        locations = {name: item for name, item in located.items() if item is not None}
        groups = _tied_groups(model)
        self._replace_linears(model, locations)
        alone = {name for others in tables.values() for name in others}
        self._untie(model, _share_tables(model, groups, alone))
        experts = {**_packed_experts(names, packed), **locations}
        kinds = {type(model.get_submodule(x.module)): x for x in experts.values() if x.leaves}
        for kind, location in kinds.items():
            self._replace_experts(model, kind, location, experts)
        self._share_maps(model, locations)
        self._check_names(model, transforms, locations)
        self._find_packed(model, transforms, packed)

    def _narrow(self, model: Module, names: _NameMap) -> None:
        """Give layers beside narrower hidden layers the shapes of their weights.

        Raises:
            ValueError: the model has none of these layers, or one of another shape.
        """
        narrowed = getattr(self.quantization_config, "narrowed", {})
        for name, entry in narrowed.items():
            location = names.locate(name, narrowed)
            if location is None:
                continue
            layer, dense = model.get_submodule(location.full(name)), tuple(entry["from"])
            if _sides(layer) not in (dense, tuple(entry["to"])):
                raise ValueError(
                    f"rmtcli: config.json says that '{name}' is {dense[0]}x{dense[1]} in the dense "
                    f"model, and {type(model).__name__} has {'x'.join(map(str, _sides(layer)))}"
                )
            _resize(layer, *entry["to"])
            self._widths[location.module] = dense

    def _untie(self, model: Module, shared: Collection[str]) -> None:
        """Keep transformers from tying weights that modules share as factors."""
        weights = {f"{name}.weight" for name in shared}
        ties = getattr(model, _TIES, None) or {}
        self._ties = {a: b for a, b in ties.items() if {a, b} & weights}
        for name in self._ties:
            del ties[name]
        if shared:  # a file may hold the factors under several names
            kind = list if get_model_conversion_mapping is None else set
            patterns = [rf"^{re.escape(name)}\.[01]\.weight$" for name in shared]
            ignored = [*(model._keys_to_ignore_on_load_unexpected or ()), *patterns]
            model._keys_to_ignore_on_load_unexpected = kind(ignored)

    def _replace_linears(self, model: Module, locations: Mapping[str, _Location]) -> None:
        """Replace the factored layers that are modules of their own."""
        replaced: dict[int, Module] = {}  # a module under several names stays one module
        for name, location in locations.items():
            if not location.leaves:
                layer = model.get_submodule(location.module)
                if id(layer) not in replaced:
                    replaced[id(layer)] = self.quantization_config.split(layer, name)
                _put(model, location.module, replaced[id(layer)])

    def _replace_experts(
        self, model: Module, kind: type, location: _Location, locations: Mapping[str, _Location]
    ) -> None:
        """Replace all experts of one class: transformers joins either all of them or none."""
        self._apart.update(location.joined)
        for module, joined in list(model.named_modules()):
            if type(joined) is kind:
                names = {
                    ".".join(name.rsplit(".", 2)[1:]): name
                    for name, other in locations.items()
                    if other.module == module
                }
                config = self.quantization_config
                split = functools.partial(_split_expert, config, names)
                _put(model, module, FactoredExperts(joined, location.leaves, split))

    def _share_maps(self, model: Module, locations: Mapping[str, _Location]) -> None:
        """Let siblings use one first map.

        Raises:
            ValueError: the model lacks the layer that holds the map.
        """
        for name, other in getattr(self.quantization_config, "shared", {}).items():
            if name in locations and other not in locations:
                raise ValueError(f"rmtcli: {name} needs a map of {other}, which the model lacks")
            if name in locations:
                layer = model.get_submodule(locations[name].full(name))
                layer.share(model.get_submodule(locations[other].full(other)))

    def _check_names(
        self, model: Module, transforms: list[Any], locations: Mapping[str, _Location]
    ) -> None:
        """Make sure that transformers loads each factor into its module; add renamings if not.

        Raises:
            ValueError: transformers 4 would not load a factor.
        """
        names = _NameMap(model, self.update_weight_conversions(transforms))
        for name, location in locations.items():
            module = location.full(name)
            for leaf in model.get_submodule(module).leaves:
                key, wanted = f"{name}.{leaf}", f"{module}.{leaf}"
                if wanted in names.state and names.find(key) != (wanted, None):
                    if get_model_conversion_mapping is None:
                        raise ValueError(f"rmtcli: transformers does not load {key} into {wanted}")
                    self._renamings.append(WeightRenaming(f"^{key}", wanted))

    def _find_packed(
        self, model: Module, transforms: list[Any], packed: Mapping[str, Mapping[str, int]]
    ) -> None:
        """Have transformers make weights of the tensors that are stored in few bits.

        Raises:
            ValueError: the model should have one of these weights and does not.
        """
        names = _NameMap(model, self.update_weight_conversions(transforms))
        modules = [name.rpartition(".")[0] for name in packed]
        for name, entry in packed.items():
            wanted, _ = names.find(name)
            if wanted not in names.state:
                if names.leaves_out(name.rpartition(".")[0], modules):
                    continue
                raise ValueError(
                    f"rmtcli: config.json says that '{name}' is stored in few bits, and "
                    f"{type(model).__name__} of transformers {transformers.__version__} has no "
                    "such weight: run 'rmtcli densify' on the directory"
                )
            keys = (f"{name}_{part}" for part in ("packed", "scale", "shape"))
            # A converter meets the names that transformers' renamings leave.
            parts = [rename_source_key(key, names.renamings, [])[0] for key in keys]
            unpack = Unpack(entry["bits"], entry["group"], wanted, name)
            patterns = [f"^{re.escape(part)}" for part in parts]
            self._unpack.append(WeightConverter(patterns, wanted, [unpack]))

    def _process_model_after_weight_loading(self, model: Module, **kwargs: Any) -> Module:
        if self.quantization_config.dequantize:
            return self.dequantize(model)
        model.is_quantized = False  # weights are ordinary floats: half(), float() and training work
        model.save_pretrained = functools.partial(save_with_loader, model)
        return model

    def _dequantize(self, model: Module, dtype: torch.dtype | None = None) -> Module:
        """Replace the factored layers by dense ones, in the precision of the factors.

        Narrower hidden layers get units without effect, as many as the configuration says.
        """
        dense: dict[int, Module] = {}
        for kind in (FactoredExperts, Split):  # experts contain split layers
            for name, module in list(model.named_modules(remove_duplicate=False)):
                if isinstance(module, kind):
                    if id(module) not in dense:
                        dense[id(module)] = module.dense()
                    _put(model, name, dense[id(module)])
        for name, sides in self._widths.items():
            _resize(model.get_submodule(name), *sides, fill=True)
        model.__dict__.pop("save_pretrained", None)
        _forget(model, _unpacking(model))
        if self._ties:
            getattr(model, _TIES).update(self._ties)
        getattr(model.config, "auto_map", {}).pop("AutoConfig", None)
        if dtype not in (None, model.config.dtype):
            model.to(dtype)
        return model


def _packed_experts(
    names: _NameMap, packed: Mapping[str, Mapping[str, int]]
) -> dict[str, _Location]:
    """The layers of experts in few bits, which transformers could join only as whole weights.

    Raises:
        ValueError: experts that cannot be taken apart.
    """
    located = {}
    for name in packed:
        tensor, converter = names.find(name)
        if converter is not None:
            layer = name.removesuffix(".weight")
            located[layer] = names.locate_expert(layer, tensor, converter)
    return located


def _split_expert(
    config: RmtcliConfig, names: Mapping[str, str], layer: Module, key: str
) -> Split | None:
    """The module for an expert's map ``index.leaf``, by its name in the checkpoint."""
    return config.split(layer, names[key]) if key in names else None


def locate_layers(model: nn.Module, names: Iterable[str]) -> dict[str, _Location]:
    """Find a checkpoint's layers in a model whose weights are loaded.

    Layers that the model was built without, or has in another form, are missing.
    """
    names = list(names)
    name_map, locations = _NameMap(model, _transforms(model), names), {}
    for name in names:
        try:
            location = name_map.locate(name, names)
        except ValueError:
            continue
        if location is not None:
            locations[name] = location
    return locations


def locate_tensors(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Find a checkpoint's tensors in a model whose weights are loaded.

    Those that transformers joins with others, or that the model was built without, are missing.
    """
    name_map = _NameMap(model, _transforms(model))
    parts = {name: name_map.find(name) for name in names}
    return {
        name: tensor
        for name, (tensor, converter) in parts.items()
        if converter is None and tensor in name_map.state
    }


def _tied_groups(model: Module) -> list[set[str]]:
    """Names of the modules whose weights are tied to one another, before any weight is loaded.

    Transformers 5 ties them after loading, by a table of names; transformers 4 has done it.
    """
    pairs = dict(getattr(model, _TIES, None) or {})
    first: dict[int, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        weight = module._parameters.get("weight")
        if weight is not None and first.setdefault(id(weight), name) != name:
            pairs[f"{name}.weight"] = f"{first[id(weight)]}.weight"
    groups: list[set[str]] = []
    for pair in pairs.items():
        names = {name.removesuffix(".weight") for name in pair if name.endswith(".weight")}
        names.update(*(group for group in groups if group & names))
        groups = [group for group in groups if not group & names] + [names]
    return groups


def _share_tables(model: Module, groups: list[set[str]], alone: Collection[str]) -> set[str]:
    """Let modules that are tied to a factored table call its factors.

    Args:
        model: the model, whose tables are replaced.
        groups: modules that were tied to one another, by their names.
        alone: modules that hold a weight of their own in spite of that.

    Returns:
        Names of these modules.
    """
    shared: set[str] = set()
    for group in groups:
        modules = {name: model.get_submodule(name) for name in sorted(group) if name not in alone}
        split = [module for module in modules.values() if isinstance(module, SplitTable)]
        if not split:
            continue
        owner, shared = split[0], shared | group
        for name, module in modules.items():
            if module is not owner:
                layer = module.original[0] if isinstance(module, SplitTable) else module
                new = _in_place_of(layer, owner.right.embedding_dim, owner)
                if new is None:
                    raise ValueError(f"rmtcli: {name} is tied to a table, and cannot be factored")
                _put(model, name, new)
    return shared


def _transforms(model: Module) -> list[Any]:
    """The transforms of names that transformers uses for a model; none before version 5."""
    return [] if get_model_conversion_mapping is None else get_model_conversion_mapping(model)


def _put(model: Module, name: str, module: Module) -> None:
    """Replace the module of this name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _unpacking(model: Module) -> list[Unpack]:
    """What made the weights of a model that were stored in few bits."""
    conversions = getattr(model, "_weight_conversions", None) or []
    operations = (each for item in conversions for each in getattr(item, "operations", ()))
    return [each for each in operations if isinstance(each, Unpack)]


def _forget(model: Module, unpacking: Collection[Unpack]) -> None:
    """Save the weights that these made as any others."""
    if unpacking:
        kept = (c for c in model._weight_conversions if not _has(c, unpacking))
        model._weight_conversions = list(kept)
        packed = model.config.quantization_config.packed
        for each in unpacking:
            packed.pop(each.stored, None)


def _has(conversion: Any, unpacking: Collection[Unpack]) -> bool:
    return any(each in unpacking for each in getattr(conversion, "operations", ()))


def save_with_loader(model: Module, directory: str | Path, *args: Any, **kwargs: Any) -> Any:
    """``save_pretrained`` that also copies this file, which loading the weights again needs.

    Weights in few bits are saved as they were stored. Those that have changed since are saved in
    the model's type.
    """
    weights = dict(model.named_parameters(remove_duplicate=False))
    changed = [each for each in _unpacking(model) if each.codes(weights.get(each.name)) is None]
    if changed:
        warnings.warn(
            f"rmtcli: {len(changed)} weights are no longer those that were stored in few bits, and "
            "are saved in the model's type: 'rmtcli prune --bits' rounds them again",
            stacklevel=2,
        )
    _forget(model, changed)
    loader = {"AutoConfig": f"rmtcli_loading.{type(model.config).__name__}"}
    model.config.auto_map = (getattr(model.config, "auto_map", None) or {}) | loader
    result = type(model).save_pretrained(model, directory, *args, **kwargs)
    config = Path(directory) / "config.json"
    if config.exists():  # adapters are saved without the model
        (Path(directory) / "rmtcli_loading.py").write_bytes(Path(__file__).read_bytes())
        entries = json.loads(config.read_text(encoding="utf-8")) | {_WEIGHTS: HOW}
        config.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    return result


class _WeightsFile:
    """The attribute ``transformers_weights`` of configurations: the file that holds the weights.

    A written ``config.json`` has a sentence there that says how to load the model. Without this
    file, transformers refuses it as the name of a file, where it would else leave the split layers
    at random values; with it, the sentence is not seen.
    """

    def __get__(self, config: Any, owner: type | None = None) -> str | None:
        value = None if config is None else vars(config).get(_WEIGHTS)
        return None if value is None or " " in value else str(value)

    def __set__(self, config: Any, value: Any) -> None:
        vars(config)[_WEIGHTS] = value

    def __delete__(self, config: Any) -> None:
        del vars(config)[_WEIGHTS]


class _Opener:
    """Stands in for a config class of transformers, which must not be marked as remote code.

    ``AutoConfig`` marks the class that ``auto_map`` names, and ``save_pretrained`` would then copy
    the source file of a marked class.
    """

    def __init__(self, own: type) -> None:
        self._own = own

    def register_for_auto_class(self, auto_class: str = "AutoConfig") -> None:
        """Do nothing."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._own(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


def __getattr__(name: str) -> Any:
    """Return a config class of transformers, which ``auto_map`` makes transformers look up here."""
    own = None if name.startswith("_") else getattr(transformers, name, None)
    if isinstance(own, type) and issubclass(own, transformers.PretrainedConfig):
        return _Opener(own)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def register() -> None:
    """Register the quantization method; of several copies of this file, the newest format wins."""
    known = AUTO_QUANTIZATION_CONFIG_MAPPING.get(METHOD)
    if getattr(known, "newest", 0) < VERSION:
        AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD] = RmtcliConfig
        AUTO_QUANTIZER_MAPPING[METHOD] = RmtcliQuantizer
        setattr(transformers.PretrainedConfig, _WEIGHTS, _WeightsFile())


register()
