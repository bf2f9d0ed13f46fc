"""Weights that a tool computes of the tensors in which it has stored them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from rmtcli.checkpoint.base import Checkpoint, TensorInfo
from rmtcli.checkpoint.dtypes import TYPES, RawTensor
from rmtcli.checkpoint.ties import equal_tensors
from rmtcli.checkpoint.torch.file import to_torch
from rmtcli.checkpoint.torch.tensors import bytes_of
from rmtcli.errors import CheckpointError, first_line, out_of_memory


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a tool computes one weight.

    Attributes:
        info: shape and type of the weight.
        parts: names of the tensors of which it is computed, by what the tool calls them.
        compute: the weight of these tensors.
    """

    info: TensorInfo
    parts: Mapping[str, str]
    compute: Callable[[dict[str, torch.Tensor]], torch.Tensor]


class Dequantised(Checkpoint):
    """The weights of a directory that are computed, and no others.

    Args:
        path: the directory.
        recipes: how each weight is computed, by its name.
        files: the file that holds each tensor.
    """

    form = "quantised weights"

    def __init__(
        self, path: Path, recipes: Mapping[str, Recipe], files: Mapping[str, Checkpoint]
    ) -> None:
        self.path, self._recipes, self._files = path, recipes, files
        self.infos = {name: recipe.info for name, recipe in recipes.items()}
        self.parts = {part for recipe in recipes.values() for part in recipe.parts.values()}

    def raw(self, name: str) -> RawTensor:
        """The bytes of one weight, as the tool computes it.

        Raises:
            CheckpointError: the tool refuses its parts, or they give another shape.
        """
        recipe, info = self._recipes[name], self.infos[name]
        tensors = {
            x: to_torch(self._files[part].raw(part), part) for x, part in recipe.parts.items()
        }
        try:
            with torch.no_grad():
                value = recipe.compute(tensors)
        except Exception as error:  # whatever the tool raises of a damaged file
            if out_of_memory(error):
                raise
            reason = first_line(error)
            raise CheckpointError(f"{self.path}: '{name}': damaged: {reason}") from None
        if tuple(value.shape) != info.shape:
            raise CheckpointError(
                f"{self.path}: '{name}': damaged: its parts give the shape {tuple(value.shape)}"
            )
        return RawTensor(info.dtype, info.shape, bytes_of(value.to(type_of(info.dtype))))

    def nbytes(self, name: str) -> int:
        """Bytes of all parts of a weight."""
        return sum(self._files[part].nbytes(part) for part in self._recipes[name].parts.values())

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """Weights of equal bytes."""
        return equal_tensors(self, names)


def tool(name: str) -> Any:
    """A module of a tool, without what it logs of accelerators that are missing."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        return import_module(name)
    finally:
        logging.disable(before)


def type_of(dtype: str) -> torch.dtype:
    """A type of torch, by its name in safetensors."""
    result: torch.dtype = getattr(torch, TYPES[dtype].word)
    return result
