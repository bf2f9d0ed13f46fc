"""Files of AutoAWQ, which compressed-tensors converts into its own form.

``X.qweight`` holds codes of 4 bits, in × out, eight in a word; ``X.qzeros`` and ``X.scales`` hold
the zero points and scales of groups of inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch

from rmtcli.checkpoint.base import Checkpoint, TensorInfo
from rmtcli.checkpoint.dequantised.compressed_tensors import decompress
from rmtcli.checkpoint.dequantised.recipe import Recipe, tool
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.errors import CheckpointError, first_line

_CODES, _SCALES, _ZEROS = ".qweight", ".scales", ".qzeros"
#: Codes in a word.
_IN_WORD = 8


def recipes(
    files: Mapping[str, Checkpoint], settings: Mapping[str, Any], dtype: str | None
) -> Iterator[tuple[str, Recipe]]:
    """How each weight is computed, by its name.

    Args:
        files: the file of each tensor.
        settings: the entry ``quantization_config``.
        dtype: the model's own type, which is not needed: weights have that of their scales.

    Raises:
        CheckpointError: the configuration or a weight is of a kind that is not read.
    """
    converter = None
    for name, file in files.items():
        module, _, _ = name.rpartition(_CODES)
        scales = module + _SCALES
        if not name.endswith(_CODES) or scales not in files:
            continue
        info, scale = file.infos[name], files[scales].infos[scales]
        if len(info.shape) != 2 or info.dtype != "I32" or scale.dtype not in FLOATS:
            raise CheckpointError(f"{file.path}: '{name}': damaged: no words with 4 bits per code")
        converter = converter or _converter(file, settings)
        parts = {f"m{end}": module + end for end in (_CODES, _SCALES, _ZEROS)}
        parts = {key: part for key, part in parts.items() if part in files}
        shape = (_IN_WORD * info.shape[1], info.shape[0])
        compute = partial(_compute, converter)
        yield f"{module}.weight", Recipe(TensorInfo(shape, scale.dtype), parts, compute)


def _converter(file: Checkpoint, settings: Mapping[str, Any]) -> Any:
    """The package's converter.

    Raises:
        CheckpointError: it does not know this kind.
    """
    convert = tool("compressed_tensors.entrypoints.convert")
    known = ("bits", "group_size", "zero_point", "version")
    try:
        return convert.AutoAWQConverter(
            ignore=(), **{key: settings[key] for key in known if key in settings}
        )
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{file.path}: not read: {first_line(error)}") from None


def _compute(converter: Any, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    (scheme,) = converter.update_config(None).config_groups.values()
    packed = converter.process(tensors)
    parts = {name.removeprefix("m."): value for name, value in packed.items()}
    return decompress((scheme.format, scheme), parts)
