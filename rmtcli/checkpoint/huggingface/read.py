"""Hugging Face directories: a configuration, weights in one file or in shards, and much else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from rmtcli.checkpoint.base import About, Checkpoint, Opened, stamp_of
from rmtcli.checkpoint.dtypes import RawTensor
from rmtcli.checkpoint.safetensors import SafetensorsFile, natural_order
from rmtcli.checkpoint.ties import HEAD, equal_tensors
from rmtcli.errors import CheckpointError, UsageError

CONFIG = "config.json"
#: Name of a single file of weights, in the order in which transformers looks for them. An index
#: of shards has the same name and :data:`INDEX`.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
#: What another program's weights in such a directory are called, to name them in an error.
FOREIGN = ("*.h5", "*.msgpack", "*.gguf", "*.onnx", "*.ot", "*.pth", "*.safetensors", "*.bin")
#: Our entry in a configuration's ``quantization_config``.
METHOD = "rmtcli"

#: Model types whose layers of these names are transformers' ``Conv1D``: stored as in × out.
_CONV1D_TYPES = frozenset(
    {"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp", "clvp_decoder"}
)
_CONV1D_NAMES = frozenset({"c_attn", "q_attn", "c_proj", "c_fc"})


class HuggingFaceDirectory(Opened):
    """The weights of a directory that transformers or sentence-transformers wrote.

    Attributes:
        home: the folder that holds configuration and weights: the directory itself, or in older
            sentence-transformers directories a folder in it.
        config: the configuration.
        main: name of the file or index from which the weights were read.
        beside: folders of sentence-transformers' further modules, which keep their weights.
    """

    form = "Hugging Face directory"

    def __init__(self, path: Path) -> None:
        self.path = path
        modules = _modules(path)
        self.home = path / modules[0] if modules and not (path / CONFIG).exists() else path
        self.beside = tuple(folder for folder in modules[1:] if folder)
        self.main, shards = _weights(self.home)
        if not (self.home / CONFIG).exists():
            raise CheckpointError(f"{self.home}: has weights and no {CONFIG}: name their file")
        stamp = stamp_of(self.home / CONFIG)
        self.config = read_object(self.home / CONFIG)
        parts = {shard: _opened(self.home / shard) for shard in shards}
        self._parts: dict[str, Checkpoint] = {
            name: part for part in parts.values() for name in part.infos
        }
        if self.main.endswith(INDEX):
            _check_index(self.home / self.main, shards, parts)
        names = sorted(self._parts, key=natural_order)
        self.infos = {name: self._parts[name].infos[name] for name in names}
        self.shared = frozenset(name for part in parts.values() for name in part.shared)
        self.opaque = tuple(name for part in parts.values() for name in part.opaque)
        self.extras = tuple(name for part in parts.values() for name in part.extras)
        manifests = (part.manifest for part in parts.values())
        record = next((manifest for manifest in manifests if manifest), None)
        self.manifest = record and record.sharing(
            lambda name, _: name not in self._parts or name in self.shared
        )
        notes = [part.metadata for part in parts.values()]
        self.metadata = {"format": "pt"} | {k: v for found in notes for k, v in found.items()}
        self._files = tuple(part.path for part in parts.values())
        self.stamps = {self.home / CONFIG: stamp}
        for part in parts.values():
            self.stamps |= part.stamps
        self.about = about(self.config)

    @property
    def files(self) -> tuple[Path, ...]:
        """Weights and configuration."""
        return (self.home / CONFIG, *self._files)

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files that hold the tensors."""
        return self._files

    def raw(self, name: str) -> RawTensor:
        """The bytes of one tensor, from its shard."""
        return self._parts[name].raw(name)

    def nbytes(self, name: str) -> int:
        """Size of one tensor."""
        return self._parts[name].nbytes(name)

    def rows(self, name: str, start: int, stop: int) -> RawTensor:
        """Some entries of a tensor along its first axis."""
        return self._parts[name].rows(name, start, stop)

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """Tensors with equal bytes, in whatever shard."""
        return equal_tensors(names, self.infos, self._head, self.raw, self.lent)

    def _head(self, name: str) -> bytes:
        part = self._parts[name]
        if isinstance(part, SafetensorsFile):
            return part.head(name)
        return part.raw(name).data[:HEAD].tobytes()


def is_directory_of_weights(path: Path) -> bool:
    """Whether a folder is meant to be read as a whole."""
    names = (CONFIG, "modules.json", "adapter_config.json", "model_index.json")
    return any((path / name).exists() for name in names)


def about(config: Mapping[str, Any]) -> About:
    """What a configuration tells about the tensors, its parts' configurations included."""
    found = list(_configs(config))
    types = {part["model_type"] for part in found if isinstance(part.get("model_type"), str)}
    sizes = {part["vocab_size"] for part in found if type(part.get("vocab_size")) is int}
    transposed = _CONV1D_NAMES if types & _CONV1D_TYPES else frozenset()
    quantized = config.get("quantization_config") or None
    method = "" if quantized is None else "unknown"
    if isinstance(quantized, dict):
        method = str(quantized.get("quant_method", method))
    return About(transposed, frozenset(sizes), "" if method == METHOD else method, linear_only=True)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: it is none.
    """
    values = _read_json(path)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: damaged: not a JSON object")
    return values


def _read_json(path: Path) -> Any:
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path}: a folder, a pipe or a device, and no file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged: not JSON ({error})") from None


def _configs(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield config
    for value in config.values():
        if isinstance(value, dict):
            yield from _configs(value)


def _modules(path: Path) -> list[str]:
    """The folders of a sentence-transformers directory, its transformer's first."""
    file = path / "modules.json"
    if not file.exists():
        return []
    modules = _read_json(file)
    try:
        folders = [str(module["path"]) for module in modules]
    except (TypeError, KeyError):
        raise CheckpointError(f"{file}: damaged: not a list of modules with a 'path'") from None
    for folder in folders:
        if Path(folder).is_absolute() or ".." in Path(folder).parts:
            raise CheckpointError(f"{file}: names the folder '{folder}' outside of the directory")
    return folders


def _weights(home: Path) -> tuple[str, list[str]]:
    """The file or index to read from, and the names of the files that hold tensors.

    Raises:
        UsageError: a directory of another kind.
        CheckpointError: there are no weights.
    """
    for name in WEIGHTS:
        if (home / name).exists():
            return name, [name]
        if (home / f"{name}{INDEX}").exists():
            return f"{name}{INDEX}", _shards(home / f"{name}{INDEX}")
    if (home / "adapter_config.json").exists():
        raise UsageError(
            f"{home}: holds an adapter only: merge it into its base model and save that"
        )
    others = sorted({path.name for pattern in FOREIGN for path in home.glob(pattern)})
    found = f", but {', '.join(others[:3])}" if others else ""
    raise CheckpointError(
        f"{home}: has a {CONFIG} and no weights by the names {' or '.join(WEIGHTS)}{found}: "
        "download or save them"
    )


def _shards(index: Path) -> list[str]:
    """The files that an index names.

    Raises:
        CheckpointError: it is no index, or names a file that is not in its folder.
    """
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index}: damaged: 'weight_map' must give a file for each tensor")
    shards = sorted(set(names.values()), key=natural_order)
    if not shards:
        raise CheckpointError(f"{index}: names no tensors")
    for shard in shards:
        if Path(shard).name != shard or shard in ("", ".."):
            raise CheckpointError(f"{index}: names the file '{shard}' outside of its folder")
        if not (index.parent / shard).is_file():
            raise CheckpointError(f"{index}: names {shard}, which is not there: download it again")
    return shards


def _opened(path: Path) -> Checkpoint:
    from rmtcli.checkpoint.reader import open_checkpoint

    return open_checkpoint(path)


def _check_index(index: Path, shards: list[str], parts: Mapping[str, Checkpoint]) -> None:
    """Make sure that index and shards tell the same.

    Raises:
        CheckpointError: they do not.
    """
    wanted = cast(dict[str, str], read_object(index)["weight_map"])
    for name, shard in wanted.items():
        if name not in parts[shard].infos and name not in parts[shard].opaque:
            raise CheckpointError(
                f"{index}: says that {shard} holds '{name}', which it does not: "
                "index and shards are not of one model"
            )
    for shard in shards:
        own = (name for name in parts[shard].distinct if wanted.get(name) != shard)
        extra = next(own, None)
        if extra is not None:
            raise CheckpointError(
                f"{index}: does not say that {shard} holds '{extra}', which it does: "
                "index and shards are not of one model"
            )
