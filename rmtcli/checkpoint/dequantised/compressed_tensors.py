"""Files of compressed-tensors, and weights of 8 bits with a scale per block (``fp8``).

A module's weight is ``weight_packed`` or, with 8 bits, ``weight``; ``weight_scale``, zero points
and others are beside it. The configuration has groups of modules with their numbers of bits.
Symmetric packed whole numbers need none of this: they are read without the package.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch

from rmtcli.checkpoint.base import Checkpoint, TensorInfo
from rmtcli.checkpoint.dequantised.recipe import Recipe, tool, type_of
from rmtcli.checkpoint.dtypes import FLOATS, decode
from rmtcli.errors import CheckpointError
from rmtcli.files import CONFIG

_PACKED, _SHAPE, _SCALE, _INVERSE = (
    "weight_packed",
    "weight_shape",
    "weight_scale",
    "weight_scale_inv",
)
#: The order of a row's groups, which the package does not undo.
_ORDER = "weight_g_idx"
#: Characters of a module's name, and repetitions of any length in a pattern of names. Python's
#: ``re`` can take more than a lifetime for others.
_LONGEST, _REPETITIONS = 300, 3
#: A repeated group, a reference to a group, or a number of repetitions.
_SLOW = re.compile(r"\)[*+?{]|\(\?P?[=<!]|\\\d|\{")


def recipes(
    files: Mapping[str, Checkpoint], settings: Mapping[str, Any], dtype: str | None
) -> Iterator[tuple[str, Recipe]]:
    """How each weight is computed, by its name.

    Args:
        files: the file of each tensor.
        settings: the entry ``quantization_config``.
        dtype: the model's own type, of weights whose scales have a type of few bits.

    Raises:
        CheckpointError: the configuration or the parts of a weight are damaged.
    """
    schemes = None
    for module, parts in _modules(files).items():
        if _ORDER in parts or not _is_quantised(files, parts):
            continue
        schemes = schemes or _Schemes(files[parts[_SCALE]], settings)
        scale, info = (files[parts[x]].infos[parts[x]] for x in (_SCALE, _codes(parts)))
        kind = scale.dtype if scale.dtype in FLOATS else dtype or "BF16"
        shape = _packed_shape(files, parts) if _PACKED in parts else info.shape
        compute = partial(decompress, schemes.of(module))
        yield f"{module}.weight", Recipe(TensorInfo(shape, kind), parts, compute)


def blocks(
    files: Mapping[str, Checkpoint], settings: Mapping[str, Any], dtype: str | None
) -> Iterator[tuple[str, Recipe]]:
    """How each weight of 8 bits with a scale per block is computed, by its name.

    Args:
        files: the file of each tensor.
        settings: the entry ``quantization_config``, with the sides of a block.
        dtype: the model's own type, which the weights get.

    Raises:
        CheckpointError: the sides of a block are not two whole numbers.
    """
    sides, kind = settings.get("weight_block_size"), dtype or "BF16"
    if sides is None:  # one scale per matrix, which the package does not read
        return
    for name, file in files.items():
        module, _, last = name.rpartition(".")
        weight = f"{module}.weight"
        if last != _INVERSE or weight not in files:
            continue
        if not (isinstance(sides, list) and [type(side) for side in sides] == [int, int]):
            raise CheckpointError(f"{file.path}: the sides of a block are no two whole numbers")
        if min(sides) < 1 or len(files[weight].infos[weight].shape) != 2:
            raise CheckpointError(f"{file.path}: '{weight}' does not divide into blocks of {sides}")
        info = TensorInfo(files[weight].infos[weight].shape, kind)
        parts = {"m.weight": weight, f"m.{_INVERSE}": name}
        yield weight, Recipe(info, parts, partial(_scale_blocks, tuple(sides), type_of(kind)))


def _modules(files: Mapping[str, Checkpoint]) -> Mapping[str, dict[str, str]]:
    """The tensors of each module that has a scale, by the last part of their names."""
    modules: dict[str, dict[str, str]] = {}
    for name in files:
        module, _, last = name.rpartition(".")
        if last != "bias":
            modules.setdefault(module, {})[last] = name
    return {module: parts for module, parts in modules.items() if _SCALE in parts}


def _codes(parts: Mapping[str, str]) -> str:
    return _PACKED if _PACKED in parts else "weight"


def _is_quantised(files: Mapping[str, Checkpoint], parts: Mapping[str, str]) -> bool:
    codes = parts.get(_codes(parts))
    if codes is None:
        return False
    info = files[codes].infos[codes]
    return len(info.shape) == 2 and (_PACKED in parts or info.dtype not in FLOATS)


def _packed_shape(files: Mapping[str, Checkpoint], parts: Mapping[str, str]) -> tuple[int, ...]:
    """The shape of a packed weight: as stored, or else of two values per byte.

    Raises:
        CheckpointError: the stored shape is not that of the codes.
    """
    name = parts[_PACKED]
    info, path = files[name].infos[name], files[name].path
    rows, width = info.shape
    if _SHAPE not in parts:
        return rows, 2 * width
    stored = files[parts[_SHAPE]].raw(parts[_SHAPE])
    if stored.dtype not in ("I32", "I64") or stored.shape != (2,):
        raise CheckpointError(f"{path}: '{name}': its shape is not stored as two whole numbers")
    sides = tuple(int(side) for side in decode(stored))
    if sides[0] != rows or not 1 <= sides[1] <= 32 * width:
        raise CheckpointError(f"{path}: '{name}': damaged: has no {sides} codes")
    return sides


class _Schemes:
    """The groups of modules in a configuration.

    Args:
        file: a file of the directory, for messages.
        settings: the entry ``quantization_config``.

    Raises:
        CheckpointError: the package cannot read them.
    """

    def __init__(self, file: Checkpoint, settings: Mapping[str, Any]) -> None:
        quantization = tool("compressed_tensors.quantization")
        self._config, self._format = file.path.parent / CONFIG, settings.get("format")
        try:
            config = quantization.QuantizationConfig.model_validate(settings)
            self._groups = list(config.config_groups.values())
        except Exception as error:  # whatever the package raises of a damaged configuration
            lines = [line.strip() for line in str(error).splitlines()[:3]]
            raise CheckpointError(f"{self._config}: damaged: {', '.join(lines)}") from None

    def of(self, module: str) -> tuple[str, Any]:
        """The format and the scheme of a module.

        Raises:
            CheckpointError: it is in no group, or a pattern of names may take forever.
        """
        named = (g for g in self._groups if any(self._matches(module, t) for t in g.targets))
        group = next(named, next((g for g in self._groups if "Linear" in g.targets), None))
        if group is None:
            raise CheckpointError(f"{self._config}: has no group of weights for '{module}'")
        return str(getattr(group.format, "value", group.format) or self._format), group

    def _matches(self, module: str, target: str) -> bool:
        """Whether a target is a module's name, or a pattern that its name begins with.

        Raises:
            CheckpointError: the pattern may take forever, or is none.
        """
        pattern = target.removeprefix("re:")
        if pattern == target:
            return module == target
        repetitions = pattern.count("*") + pattern.count("+")
        if len(module) > _LONGEST or repetitions > _REPETITIONS or _SLOW.search(pattern):
            raise CheckpointError(
                f"{self._config}: the pattern {pattern[:60]!r} may take too long to match"
            )
        try:
            return re.match(pattern, module) is not None
        except re.error as error:
            raise CheckpointError(f"{self._config}: {pattern[:60]!r}: {error}") from None


def decompress(scheme: tuple[str, Any], tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """The weight of a module's tensors, given their format and the scheme."""
    compressors = tool("compressed_tensors.compressors")
    compressor = compressors.BaseCompressor.get_value_from_registry(scheme[0])
    weight: torch.Tensor = compressor.decompress(tensors, scheme[1])["weight"]
    return weight


def _scale_blocks(
    sides: tuple[int, int], dtype: torch.dtype, tensors: dict[str, torch.Tensor]
) -> torch.Tensor:
    convert = tool("compressed_tensors.entrypoints.convert")
    converter = convert.FP8BlockDequantizer(weight_block_size=sides, dtype=dtype)
    weight: torch.Tensor = converter.process(tensors)["m.weight"]
    return weight
