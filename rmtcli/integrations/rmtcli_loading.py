"""Opens a model whose layers rmtcli split into factors; needs torch and transformers, no rmtcli.

A copy stands in every directory that rmtcli writes. ``config.json`` names it under ``auto_map``, so
``from_pretrained(directory, trust_remote_code=True)`` imports it; ``import
rmtcli.integrations.transformers`` does the same. On import it registers the quantization method
``rmtcli``, which puts two linear maps in place of each factored layer before transformers loads the
weights. Works with transformers 4.57 and 5.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
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
    from transformers.core_model_loading import WeightRenaming, rename_source_key
except ImportError:  # transformers 4 neither renames weights nor joins experts
    get_model_conversion_mapping = None

#: A module of the model; what attributes it has, no type says.
Module = Any
#: Version of the entry ``quantization_config`` that this file reads and writes.
VERSION = 1
METHOD = "rmtcli"


class Product(Tensor):
    """The product of two factors, computed when its entries are needed.

    Models of the T5 family read ``wo.weight.dtype`` in every forward pass: computing the product
    for that would make them slower than dense ones.

    Args:
        left: (out × rank).
        right: (rank × in).
    """

    _is_hf_initialized = True  # so that transformers draws no random values for it

    def __new__(cls, left: Tensor, right: Tensor) -> Any:
        """An empty tensor of the product's shape and type, which remembers the factors."""
        empty = torch.empty(len(left), right.shape[1], dtype=left.dtype, device="meta")
        self: Any = torch.Tensor._make_subclass(cls, empty)
        self.factors = left, right
        return self

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Put the computed product in its place in whatever is done with it."""
        shape: tuple[Any, ...] = (Tensor.dtype, Tensor.shape, Tensor.ndim)
        place: tuple[Any, ...] = (Tensor.device, Tensor.is_meta)
        if func in [known.__get__ for known in shape]:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args)
        if func in [known.__get__ for known in place]:
            return func(args[0].factors[0])
        args, kwargs = tree_map_only(Product, Product.computed, (args, kwargs or {}))
        return func(*args, **kwargs)

    def computed(self: Any) -> Tensor:
        """The product as an ordinary tensor."""
        left, right = self.factors
        product: Tensor = left @ right
        return product


class FactoredLinear(nn.Sequential):
    """Two linear maps, named ``0`` and ``1``, in place of one ``nn.Linear`` or ``Conv1D``.

    A layer that shares the first map of another one holds the second alone: its weights are named,
    stored and counted where they belong.

    Args:
        layer: the dense layer.
        rank: width between the two maps.
    """

    def __init__(self, layer: Module, rank: int) -> None:
        weight, bias = layer.weight, layer.bias
        transposed = isinstance(layer, Conv1D)
        outputs, inputs = reversed(weight.shape) if transposed else weight.shape
        place = {"device": weight.device, "dtype": weight.dtype}
        super().__init__(
            nn.Linear(inputs, rank, bias=False, **place),
            nn.Linear(rank, outputs, bias=bias is not None, **place),
        )
        self.in_features, self.out_features, self.transposed = inputs, outputs, transposed
        self.sibling: tuple[FactoredLinear, ...] = ()  # within a tuple it is no submodule
        self.train(layer.training)

    def share(self, sibling: FactoredLinear) -> None:
        """Use another layer's first map instead of an own one, even one with an adapter."""
        del self._modules["0"]
        self.sibling = (sibling,)

    @property
    def right(self) -> Module:
        """The first map, to ``rank`` values."""
        return (self.sibling or (self,))[0]._modules["0"]

    @property
    def left(self) -> Module:
        """The second map, with the bias."""
        return self._modules["1"]

    def forward(self, inputs: Tensor) -> Tensor:
        """One map after the other."""
        outputs: Tensor = self.left(self.right(inputs))
        return outputs

    @property
    def weight(self) -> Tensor:
        """The product of the factors, in the dense layer's orientation, computed at each use.

        Code that multiplies by a weight instead of calling the layer works, but gets no faster.
        """
        right, left = self._factors()
        if self.transposed:
            left, right = right.T, left.T
        product: Tensor = Product(left, right)
        return left @ right if torch.compiler.is_compiling() else product

    @property
    def bias(self) -> Tensor | None:
        """The bias of the second map."""
        return self.left.bias  # type: ignore[no-any-return]

    def dense(self) -> Module:
        """One layer of the original class that computes the same.

        Raises:
            ValueError: the weights are not in memory.
        """
        right, left = self._factors()
        if left.is_meta or right.is_meta:
            raise ValueError("rmtcli: offloaded weights cannot be multiplied: load them whole")
        with torch.device("meta"):
            if self.transposed:
                layer: Module = Conv1D(self.out_features, self.in_features)
            else:
                layer = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        product = (left.detach().double() @ right.detach().double()).to(left.dtype)
        layer.weight = nn.Parameter(product.T.contiguous() if self.transposed else product)
        layer.bias = self.bias
        return layer.train(self.training)

    def _factors(self) -> tuple[Any, Any]:
        return self.right.weight, self.left.weight


class FactoredExperts(nn.Module):
    """Experts as single linear maps, in place of the 3-D weights that transformers 5 makes of them.

    The maps have the names of the checkpoint: ``0.w1``, ``0.w2``, …

    Args:
        joined: the module that holds ``gate_up_proj`` and ``down_proj``.
        leaves: names of an expert's gate, up and down map.
        ranks: rank of each factored map, by ``index.leaf``.
    """

    def __init__(self, joined: Module, leaves: Iterable[str], ranks: Mapping[str, int]) -> None:
        super().__init__()
        self.leaves = tuple(leaves)
        self.joined = (joined,)  # within a tuple it is no submodule, and its weights stay empty
        count, hidden, inner = joined.down_proj.shape
        place = {"device": joined.down_proj.device, "dtype": joined.down_proj.dtype}
        for index in range(count):
            expert = nn.Module()
            sides = ((hidden, inner), (hidden, inner), (inner, hidden))
            for leaf, (inputs, outputs) in zip(self.leaves, sides, strict=True):
                layer: Module = nn.Linear(inputs, outputs, bias=False, **place)
                rank = ranks.get(f"{index}.{leaf}")
                expert.add_module(leaf, FactoredLinear(layer, rank) if rank else layer)
            self.add_module(str(index), expert)
        self.train(joined.training)

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Send each token through its experts, and add their weighted outputs.

        Args:
            hidden_states: (tokens × hidden).
            top_k_index: experts of each token, (tokens × k).
            top_k_weights: their weights, likewise.
        """
        joined, result = self.joined[0], torch.zeros_like(hidden_states)
        for index, (gate, up, down) in enumerate(self._maps()):
            token, choice = torch.where(top_k_index == index)
            tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
            if len(token) == 0 and not tracing:
                continue
            inputs = hidden_states[token]
            inner = joined._apply_gate(torch.cat([gate(inputs), up(inputs)], dim=-1))
            outputs = down(inner) * top_k_weights[token, choice, None]
            result.index_add_(0, token, outputs.to(result.dtype))
        return result

    def dense(self) -> Module:
        """The module with joined weights that computes the same."""
        joined = self.joined[0]
        maps = [
            [layer.dense() if isinstance(layer, FactoredLinear) else layer for layer in expert]
            for expert in self._maps()
        ]
        gates = [torch.cat([gate.weight, up.weight]) for gate, up, _ in maps]
        joined.gate_up_proj = nn.Parameter(torch.stack(gates).detach())
        joined.down_proj = nn.Parameter(torch.stack([down.weight for *_, down in maps]).detach())
        return joined.train(self.training)

    def _maps(self) -> list[list[Module]]:
        return [[getattr(expert, leaf) for leaf in self.leaves] for expert in self.children()]


class RmtcliConfig(QuantizationConfigMixin):
    """The entry ``quantization_config`` of ``config.json``.

    Args:
        ranks: rank of each factored layer, by its name in the dense checkpoint.
        shared: for each layer without a first map of its own: the one whose it uses.
        version: layout of this entry.
        dequantize: multiply the factors into dense layers after loading.
        others: kept, and written again.

    Raises:
        ValueError: a newer version, or ranks that are none.
    """

    newest = VERSION

    def __init__(
        self,
        ranks: Mapping[str, int] | None = None,
        shared: Mapping[str, str] | None = None,
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
        shares = {"shared": dict(shared)} if shared else {}
        self.__dict__.update(
            others, quant_method=METHOD, ranks=dict(ranks), version=version, **shares
        )
        self.dequantize = dequantize

    def to_dict(self) -> dict[str, Any]:
        """The entry as it stands in the file, to which the way of loading does not belong."""
        return {name: value for name, value in super().to_dict().items() if name != "dequantize"}

    def to_diff_dict(self) -> dict[str, Any]:
        """The same: no entry has a default that could be left out."""
        return self.to_dict()


@dataclass(frozen=True)
class _Place:
    """Where a layer of the checkpoint is in the model.

    Attributes:
        module: the layer, or the experts that it is joined with.
        leaves: names of an expert's maps; empty where nothing is joined.
        targets: the names under which transformers would join them.
    """

    module: str
    leaves: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()

    def full(self, name: str) -> str:
        """The module of the layer itself, which the checkpoint calls ``name``."""
        return ".".join((self.module, *name.rsplit(".", 2)[1:])) if self.leaves else self.module


class _Names:
    """How transformers gets from names in a checkpoint to those in the model.

    Args:
        model: the model, its weights not yet loaded.
        transforms: transformers' own transforms of names.
    """

    def __init__(self, model: Module, transforms: list[Any]) -> None:
        self.model, self.prefix = model, f"{model.base_model_prefix}."
        self.state = model.state_dict()
        self.renamings = [item for item in transforms if not hasattr(item, "operations")]
        self.converters = [item for item in transforms if hasattr(item, "operations")]

    def find(self, key: str) -> tuple[str, Any]:
        """The model's name for a tensor, and what joins it with others, or None."""
        if get_model_conversion_mapping is None:
            mapping = getattr(self.model, "_checkpoint_conversion_mapping", None) or {}
            for pattern, new in mapping.items():
                key, count = re.subn(pattern, new, key)
                if count:
                    break
            options = (key, key.removeprefix(self.prefix), self.prefix + key)
            return next((name for name in options if name in self.state), key), None
        prefix = self.model.base_model_prefix
        found, pattern = rename_source_key(key, self.renamings, self.converters, prefix, self.state)
        if found not in self.state and key in self.state:
            found, pattern = rename_source_key(key, [], [], prefix, self.state)
        return found, next((c for c in self.converters if pattern in c.source_patterns), None)

    def place(self, name: str, names: Iterable[str]) -> _Place | None:
        """Where a layer is; None where the model was built without that part.

        Raises:
            ValueError: it should be there and is not, or cannot be factored.
        """
        found, converter = self.find(f"{name}.weight")
        if converter is not None:
            return self._joined(name, found, converter)
        module = found.removesuffix(".weight")
        if found not in self.state:
            if self._left_out(name, names):
                return None
            raise ValueError(
                f"rmtcli: config.json gives a rank for '{name}', and {type(self.model).__name__} "
                f"of transformers {transformers.__version__} has no such layer"
            )
        layer = self.model.get_submodule(module)
        if not isinstance(layer, nn.Linear | Conv1D):
            raise ValueError(
                f"rmtcli: config.json gives a rank for '{name}', which is no linear layer in "
                f"{type(self.model).__name__} but {type(layer).__name__}"
            )
        return _Place(module)

    def _left_out(self, name: str, names: Iterable[str]) -> bool:
        """Whether the model lacks a part by design: a bare encoder its head, a head its pooler."""
        headed = any(other.startswith(self.prefix) for other in names)
        if self.model.base_model is self.model and headed and not name.startswith(self.prefix):
            return True
        for option in (name, name.removeprefix(self.prefix), self.prefix + name):
            module: Any = self.model
            for part in option.split("."):
                module = getattr(module, part, self)
                if module is None:
                    return True
                if module is self:
                    break
        return False

    def _joined(self, name: str, found: str, converter: Any) -> _Place:
        """Experts that can be taken apart again: gate and up joined, down alone, no biases."""
        module = found.rpartition(".")[0]
        stem = converter.target_patterns[0].rpartition(".")[0]
        sources = {
            target.rpartition(".")[2]: item
            for item in self.converters
            for target in item.target_patterns
            if target.rpartition(".")[0] == stem
        }
        wanted = {
            "gate_up_proj": ["MergeModulelist", "Concatenate"],
            "down_proj": ["MergeModulelist"],
        }
        kinds = {p: [type(op).__name__ for op in item.operations] for p, item in sources.items()}
        experts = self.model.get_submodule(module)
        simple = {
            "has_gate": True,
            "is_concatenated": True,
            "is_transposed": False,
            "has_bias": False,
        }
        if (
            kinds != wanted
            or dict(experts.named_parameters()).keys() != wanted.keys()
            or any(getattr(experts, flag, None) is not value for flag, value in simple.items())
            or getattr(experts, "has_post_expert_norm", False)
        ):
            raise ValueError(
                f"rmtcli: transformers {transformers.__version__} joins '{name}' with other "
                f"weights into {found}, where its factors have no place: use the dense layout"
            )
        patterns = [*sources["gate_up_proj"].source_patterns, *sources["down_proj"].source_patterns]
        leaves = tuple(pattern.removesuffix(".weight").rpartition(".")[2] for pattern in patterns)
        return _Place(module, leaves, tuple(item.target_patterns[0] for item in sources.values()))


class RmtcliQuantizer(HfQuantizer):
    """Puts the factored layers in before transformers loads the weights."""

    requires_calibration = True  # transformers cannot factor a dense model by itself
    is_trainable = True
    is_qat_trainable = True  # factors are ordinary parameters: no adapters are needed
    is_compileable = True

    def __init__(self, quantization_config: QuantizationConfigMixin, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self._renamings: list[Any] = []  # for factors that transformers would not find
        self._apart: set[str] = set()  # what transformers would join and we do not

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """``save_pretrained`` writes the factors under the checkpoint's names."""
        return True

    def update_weight_conversions(self, weight_conversions: list[Any], *args: Any) -> list[Any]:
        """Transformers' transforms, without the joining of experts that stay apart."""
        kept = (item for item in weight_conversions if item.target_patterns[0] not in self._apart)
        return [*self._renamings, *kept]

    def _process_model_before_weight_loading(self, model: Module, **kwargs: Any) -> None:
        ranks = self.quantization_config.ranks
        transforms = _transforms(model)
        names = _Names(model, transforms)
        found = {name: names.place(name, ranks) for name in ranks}
        places = {name: place for name, place in found.items() if place is not None}
        swapped: dict[int, Module] = {}  # a module under several names stays one module
        for name, place in places.items():
            if not place.leaves:
                layer = model.get_submodule(place.module)
                swapped.setdefault(id(layer), FactoredLinear(layer, ranks[name]))
                _put(model, place.module, swapped[id(layer)])
        kinds = {type(model.get_submodule(p.module)): p for p in places.values() if p.leaves}
        for kind, place in kinds.items():
            self._take_apart(model, kind, place, places)
        for name, other in getattr(self.quantization_config, "shared", {}).items():
            if name in places and other not in places:
                raise ValueError(f"rmtcli: {name} needs a map of {other}, which the model lacks")
            if name in places:
                layer = model.get_submodule(places[name].full(name))
                layer.share(model.get_submodule(places[other].full(other)))
        self._check_names(model, transforms, places)

    def _take_apart(
        self, model: Module, kind: type, place: _Place, places: Mapping[str, _Place]
    ) -> None:
        """Swap all experts of one kind, as what joins their weights is one for the whole model."""
        self._apart.update(place.targets)
        for module, joined in list(model.named_modules()):
            if type(joined) is kind:
                ranks = {
                    ".".join(name.rsplit(".", 2)[1:]): self.quantization_config.ranks[name]
                    for name, other in places.items()
                    if other.module == module
                }
                _put(model, module, FactoredExperts(joined, place.leaves, ranks))

    def _check_names(
        self, model: Module, transforms: list[Any], places: Mapping[str, _Place]
    ) -> None:
        """Make sure that each factor in the file leads to its place, whatever renames it."""
        names = _Names(model, self.update_weight_conversions(transforms))
        for name, place in places.items():
            module = place.full(name)
            for leaf in ("0.weight", "1.weight", "1.bias"):
                key, wanted = f"{name}.{leaf}", f"{module}.{leaf}"
                if wanted in names.state and names.find(key) != (wanted, None):
                    if get_model_conversion_mapping is None:
                        raise ValueError(f"rmtcli: transformers does not load {key} into {wanted}")
                    self._renamings.append(WeightRenaming(f"^{key}", wanted))

    def _process_model_after_weight_loading(self, model: Module, **kwargs: Any) -> Module:
        if self.quantization_config.dequantize:
            return self.dequantize(model)
        model.is_quantized = False  # ordinary floating weights: half(), float() and training work
        model.save_pretrained = functools.partial(save_with_loader, model)
        return model

    def _dequantize(self, model: Module, dtype: torch.dtype | None = None) -> Module:
        """Dense layers in place of the factored ones, in the precision of the factors."""
        dense: dict[int, Module] = {}
        for kind in (FactoredExperts, FactoredLinear):  # experts first: they hold layers
            for name, module in list(model.named_modules(remove_duplicate=False)):
                if isinstance(module, kind):
                    if id(module) not in dense:
                        dense[id(module)] = module.dense()
                    _put(model, name, dense[id(module)])
        model.__dict__.pop("save_pretrained", None)
        getattr(model.config, "auto_map", {}).pop("AutoConfig", None)
        if dtype not in (None, model.config.dtype):
            model.to(dtype)
        return model


def places(model: nn.Module, names: Iterable[str]) -> dict[str, _Place]:
    """Where a checkpoint's layers are in a model with its weights.

    Layers that the model was built without, or has in another form, are missing.
    """
    found, known = _Names(model, _transforms(model)), {}
    for name in names:
        try:
            place = found.place(name, names)
        except ValueError:
            continue
        if place is not None:
            known[name] = place
    return known


def _transforms(model: Module) -> list[Any]:
    """Transformers' own transforms of names, none before version 5."""
    return [] if get_model_conversion_mapping is None else get_model_conversion_mapping(model)


def _put(model: Module, name: str, module: Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def save_with_loader(model: Module, directory: str | Path, *args: Any, **kwargs: Any) -> Any:
    """``save_pretrained``, with this file beside the weights, so that they can be loaded again."""
    own = {"AutoConfig": f"rmtcli_loading.{type(model.config).__name__}"}
    model.config.auto_map = (getattr(model.config, "auto_map", None) or {}) | own
    result = type(model).save_pretrained(model, directory, *args, **kwargs)
    if (Path(directory) / "config.json").exists():  # adapters are saved without the model
        (Path(directory) / "rmtcli_loading.py").write_bytes(Path(__file__).read_bytes())
    return result


class _Opener:
    """A config class of transformers, which is not to be marked as code of the directory's.

    ``AutoConfig`` marks what ``auto_map`` names; a marked class would be saved as a file.
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
    """Config classes of transformers, which ``auto_map`` looks for here."""
    own = None if name.startswith("_") else getattr(transformers, name, None)
    if isinstance(own, type) and issubclass(own, transformers.PretrainedConfig):
        return _Opener(own)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def register() -> None:
    """Make the method known; of several copies of this file, the newest format counts."""
    known = AUTO_QUANTIZATION_CONFIG_MAPPING.get(METHOD)
    if getattr(known, "newest", 0) < VERSION:
        AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD] = RmtcliConfig
        AUTO_QUANTIZER_MAPPING[METHOD] = RmtcliQuantizer


register()
