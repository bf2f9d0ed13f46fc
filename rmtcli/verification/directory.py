"""A directory that needs rmtcli's loader: its files, and the dense one it equals."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import (
    Checkpoint,
    Edited,
    RawTensor,
    encode,
    open_checkpoint,
    write_checkpoint,
)
from rmtcli.checkpoint.huggingface import read_object, refuse_code_beside
from rmtcli.checkpoint.huggingface.loading import WEIGHTS
from rmtcli.checkpoint.names import member, parts_of
from rmtcli.errors import CheckpointError, UsageError
from rmtcli.files import CONFIG
from rmtcli.layouts import widened

LOADING = Path(__file__).parents[1] / "integrations" / "rmtcli_loading.py"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True, slots=True, eq=False)
class FactoredDirectory:
    """A directory with factored layers, hidden layers of their own widths, or weights in few bits.

    Attributes:
        path: the directory.
        config: its ``config.json``.
        ranks: rank of each factored layer, by its name in the dense checkpoint.
        shared: for each layer without a right factor of its own, the layer whose factor it uses.
        pivoted: for each layer in the pivoted layout, the number of its rows that are no pivots.
        tables: the layers that are look-up tables, or heads tied to one.
        dense: (out, in) by the configuration of each layer that has another shape.
        files: its weight files, in order.
    """

    path: Path
    config: Mapping[str, Any]
    ranks: Mapping[str, int]
    shared: Mapping[str, str]
    pivoted: Mapping[str, int]
    tables: Collection[str]
    dense: Mapping[str, tuple[int, int]]
    files: tuple[Checkpoint, ...]

    def holder(self, name: str) -> Checkpoint | None:
        """The weight file that holds a tensor, or None."""
        return next((file for file in self.files if name in file.infos), None)

    def names(self, module: str) -> tuple[str, str, str]:
        """Names of a layer's right factor, left factor and bias, or of its pivoted tensors."""
        return parts_of(module, pivoted=module in self.pivoted)

    def factors(self, module: str) -> tuple[str, str]:
        """Names of a layer's right and left factor, or of its pivot rows and the rest."""
        return self.names(self.shared.get(module, module))[0], self.names(module)[1]

    def array(self, name: str) -> FloatArray:
        """The values of a factor, in float64."""
        file = self.holder(name)
        assert file is not None
        return file.array(name).astype("f8")

    def order(self, module: str) -> NDArray[np.int32]:
        """The order of a pivoted layer's outputs; empty where the weights do not hold it."""
        name = self.names(module)[2]
        file = self.holder(name)
        if file is None or file.infos[name].dtype != "I32":
            return np.zeros(0, np.int32)
        return file.array(name).astype(np.int32)


def read_config(path: Path) -> dict[str, Any]:
    """Read a directory's ``config.json``.

    Raises:
        UsageError: there is no such directory, or a file in its place.
        CheckpointError: the file is missing, or not a JSON object.
    """
    if not path.is_dir():
        is_file = path.exists()
        message = "is a file: name a Hugging Face directory" if is_file else "no such directory"
        raise UsageError(f"{path}: {message}")
    try:
        return read_object(path / CONFIG)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: has no {CONFIG}: not a model's directory") from None


def is_factored(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` says that rmtcli factored the model."""
    entry = config.get("quantization_config")
    return isinstance(entry, dict) and entry.get("quant_method") == "rmtcli"


def open_factored(path: Path) -> FactoredDirectory:
    """Read a directory and check that its weights match its configuration.

    No code in the directory is executed.

    Raises:
        UsageError: there is no such directory, or a file in its place.
        CheckpointError: rmtcli did not write the directory, or it was changed since.
    """
    config = read_config(path)
    if not is_factored(config):
        raise CheckpointError(f"{path}: {CONFIG} names no layers that rmtcli factored")
    entry = config["quantization_config"]
    kinds = ("ranks", "shared", "pivoted", "tables", "narrowed", "packed")
    ranks, shared, pivoted, tables, narrowed, packed = (entry.get(key, {}) for key in kinds)
    dense = _dense_shapes(path, narrowed)
    if not _numbers(ranks) or not (ranks or dense or packed) or not _numbers(pivoted):
        raise CheckpointError(f"{path}: {CONFIG} gives no ranks of the factored layers")
    if not isinstance(shared, dict) or not all(
        type(other) is str and {module, other} <= ranks.keys() for module, other in shared.items()
    ):
        raise CheckpointError(f"{path}: {CONFIG} shares factors of layers that have no rank")
    if not isinstance(tables, dict) or not tables.keys() <= ranks.keys():
        raise CheckpointError(f"{path}: {CONFIG} lists tables of tokens that have no rank")
    _check_code(path, config)
    refuse_code_beside(path)
    values = path, config, ranks, shared, pivoted, tables, dense
    directory = FactoredDirectory(*values, _weights(path))
    for module, rank in ranks.items():
        _check_factors(directory, module, rank)
    return directory


def _dense_shapes(path: Path, narrowed: Any) -> dict[str, tuple[int, int]]:
    """The shapes that a configuration gives layers of other shapes.

    Raises:
        CheckpointError: the configuration's entry is not one of them.
    """
    try:
        sides = {name: entry["from"] for name, entry in narrowed.items()}
        return {name: (int(out), int(inputs)) for name, (out, inputs) in sides.items()}
    except (AttributeError, TypeError, KeyError, ValueError):
        raise CheckpointError(f"{path}: {CONFIG} gives no shapes of the narrower layers") from None


def _numbers(entry: object) -> bool:
    """Whether an entry of a configuration gives whole numbers by name."""
    return isinstance(entry, dict) and all(type(value) is int for value in entry.values())


def write_products(directory: FactoredDirectory, target: Path, transposed: Collection[str]) -> None:
    """Write the dense directory that a factored one equals.

    Each factored layer's weight is the product of its factors, in float32. Layers that are narrower
    than the configuration says get zeros. All other tensors are copied.

    Args:
        directory: the factored directory.
        target: folder to create.
        transposed: last parts of the names of layers whose weight is stored as in × out.
    """
    target.mkdir()
    ours = ("quantization_config", "auto_map", WEIGHTS)
    config = {name: value for name, value in directory.config.items() if name not in ours}
    (target / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    shards: dict[str, str] = {}
    for file in directory.files:
        edits: dict[str, Mapping[str, RawTensor]] = {}
        for module in directory.ranks:
            right, left, last = directory.names(module)
            if left in file.infos:
                edits[left] = {member(module, "weight"): _product(directory, module, transposed)}
            if right in file.infos:
                edits[right] = {}
            if last in file.infos and module in directory.pivoted:
                edits[last] = {}  # the order of the outputs; the bias keeps its name
            elif last in file.infos:
                edits[last] = {member(module, "bias"): file.raw(last)}
        shapes = {member(module, "weight"): sides for module, sides in directory.dense.items()}
        dense = widened(Edited(file, edits, None), shapes, transposed)
        write_checkpoint(dense, target / file.path.name, verify=False)  # read and deleted at once
        shards |= dict.fromkeys(dense.distinct, file.path.name)
    if len(directory.files) > 1:
        index = {"metadata": {}, "weight_map": shards}
        (target / _INDEX).write_text(json.dumps(index), encoding="utf-8")


def _product(directory: FactoredDirectory, module: str, transposed: Collection[str]) -> RawTensor:
    """The dense weight of one layer, in float32."""
    right, left = map(directory.array, directory.factors(module))
    if module in directory.tables:
        return encode(right @ left.T, "F32")
    product = left @ right
    if module in directory.pivoted:
        product = np.concatenate([right, product])[directory.order(module)]
    return encode(product.T if module.rpartition(".")[2] in transposed else product, "F32")


def _check_code(path: Path, config: Mapping[str, Any]) -> None:
    """Make sure that the directory's only code is the loader that this rmtcli writes, to the byte.

    Raises:
        CheckpointError: the loader is missing or differs, or the directory names other code.
    """
    mapping = config.get("auto_map") or {}
    entry = mapping.get("AutoConfig", "") if isinstance(mapping, dict) else ""
    if not re.fullmatch(r"rmtcli_loading\.\w+", str(entry)):
        raise CheckpointError(
            f"{path}: {CONFIG} does not name rmtcli_loading.py under auto_map: opened with "
            "trust_remote_code=True, the factored layers would be random"
        )
    if len(mapping) > 1:
        other = next(name for name in mapping if name != "AutoConfig")
        raise CheckpointError(
            f"{path}: {CONFIG} names code of its own ({mapping[other]}), which rmtcli verify "
            "does not execute"
        )
    file = path / LOADING.name
    if not file.is_file():
        raise CheckpointError(f"{file}: is missing: copy it from {LOADING}")
    if file.read_bytes() != LOADING.read_bytes():
        raise CheckpointError(
            f"{file}: is not this rmtcli's, and not executed: another version wrote it, or it was "
            f"changed: copy it from {LOADING}"
        )


def _weights(path: Path) -> tuple[Checkpoint, ...]:
    """The weight files of a directory, in order."""
    if (path / _WEIGHTS).exists():
        return (open_checkpoint(path / _WEIGHTS),)
    try:
        names = sorted(set(read_object(path / _INDEX)["weight_map"].values()))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: has neither {_WEIGHTS} nor {_INDEX}") from None
    except (KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path / _INDEX}: not an index of weight files") from None
    for name in names:
        if Path(name).name != name or name in ("", "..") or not (path / name).is_file():
            raise CheckpointError(f"{path}: the shard '{name}' of {_INDEX} is missing")
    return tuple(open_checkpoint(path / name) for name in names)


def _check_factors(directory: FactoredDirectory, module: str, rank: int) -> None:
    """Make sure that the weights hold one layer's factors, of the rank in the configuration.

    Raises:
        CheckpointError: they do not.
    """
    right, left = directory.factors(module)
    files = [directory.holder(name) for name in (right, left)]
    shapes = [
        file.infos[name].shape if file is not None else ()
        for file, name in zip(files, (right, left), strict=True)
    ]
    whole = [len(shape) for shape in shapes] == [2, 2]
    whole = whole and shapes[0][module in directory.tables] == shapes[1][1] == rank
    if module in directory.pivoted:
        order, rows = directory.order(module), directory.pivoted[module]
        whole = whole and shapes[1][0] == rows and bool(len(order))
        whole = whole and 0 <= order.min() <= order.max() < rank + rows
    if not whole:
        raise CheckpointError(
            f"{directory.path}: {CONFIG} says that '{module}' has rank {rank}, and the weights "
            "hold no such factors: the directory was changed after rmtcli wrote it"
        )
