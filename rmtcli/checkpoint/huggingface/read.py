"""Reading a Hugging Face directory: a configuration, and weights in one file or in shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from rmtcli.checkpoint.base import Checkpoint, FileCheckpoint
from rmtcli.checkpoint.dtypes import RawTensor
from rmtcli.checkpoint.formats import open_file
from rmtcli.checkpoint.huggingface.config import CONFIG, about, read_json, read_object
from rmtcli.checkpoint.manifest import Manifest
from rmtcli.checkpoint.safetensors import natural_order
from rmtcli.checkpoint.ties import equal_tensors
from rmtcli.errors import CheckpointError, UsageError

#: Names of a single file of weights, in the order in which transformers looks for them. An index
#: of shards has the same name and :data:`INDEX`.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
#: Names that other programs give to weights in such a directory, for the message of an error.
FOREIGN = ("*.h5", "*.msgpack", "*.gguf", "*.onnx", "*.ot", "*.pth", "*.safetensors", "*.bin")


class HuggingFaceDirectory(FileCheckpoint):
    """The weights of a directory that transformers or sentence-transformers wrote.

    Attributes:
        home: the folder with configuration and weights: the directory itself, or in older
            sentence-transformers directories a folder in it.
        config: the configuration.
        main: name of the file or index from which the weights were read.
        beside: folders of sentence-transformers' further modules, which keep their weights.
    """

    form = "Hugging Face directory"

    def __init__(self, path: Path) -> None:
        modules = _modules(path)
        self.home = path / modules[0] if modules and not (path / CONFIG).exists() else path
        self.beside = tuple(folder for folder in modules[1:] if folder)
        self.main, shards = _weights(self.home)
        if not (self.home / CONFIG).exists():
            raise CheckpointError(f"{self.home}: has weights and no {CONFIG}: name their file")
        super().__init__(path, first=self.home / CONFIG)
        self.config = read_object(self.home / CONFIG)
        self.about = about(self.config)
        parts = {shard: open_file(self.home / shard) for shard in shards}
        if self.main.endswith(INDEX):
            _check_index(self.home / self.main, parts)
        self._combine(list(parts.values()))

    def _combine(self, parts: list[FileCheckpoint]) -> None:
        """List the tensors of all shards, and what else the shards hold."""
        self._parts = {name: part for part in parts for name in part.infos}
        names = sorted(self._parts, key=natural_order)
        self.infos = {name: self._parts[name].infos[name] for name in names}
        self.aliases = frozenset(name for part in parts for name in part.aliases)
        self.opaque = tuple(name for part in parts for name in part.opaque)
        self.extras = tuple(name for part in parts for name in part.extras)
        self.manifest = self._shared_manifest(parts)
        self.metadata = {"format": "pt"}
        for part in parts:
            self.metadata |= part.metadata
            self.stamps |= part.stamps
        self._files = tuple(part.path for part in parts)

    def _shared_manifest(self, parts: list[FileCheckpoint]) -> Manifest | None:
        """The record of the first shard that has one, of those factors that are still shared."""
        record = next((part.manifest for part in parts if part.manifest), None)
        return record and record.keep_shared(
            lambda name, _: name not in self._parts or name in self.aliases
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """Configuration and weights."""
        return (self.home / CONFIG, *self._files)

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files that hold the tensors."""
        return self._files

    def raw(self, name: str) -> RawTensor:
        """The bytes of one tensor, from its shard."""
        return self._parts[name].raw(name)

    def nbytes(self, name: str) -> int:
        """Bytes of one tensor."""
        return self._parts[name].nbytes(name)

    def head(self, name: str) -> bytes:
        """The first bytes of one tensor, from its shard."""
        return self._parts[name].head(name)

    def rows(self, name: str, start: int, stop: int) -> RawTensor:
        """The entries ``start`` to ``stop`` of a tensor along its first axis, from its shard."""
        return self._parts[name].rows(name, start, stop)

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """Tensors of equal bytes, also in different shards."""
        return equal_tensors(self, names)


def _modules(path: Path) -> list[str]:
    """The folders of a sentence-transformers directory's modules, the transformer's first.

    Raises:
        CheckpointError: ``modules.json`` is damaged, or names a folder outside of the directory.
    """
    file = path / "modules.json"
    if not file.exists():
        return []
    modules = read_json(file)
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
        UsageError: the directory holds an adapter.
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
    foreign = f", but {', '.join(others[:3])}" if others else ""
    raise CheckpointError(
        f"{home}: has a {CONFIG} and no weights by the names {' or '.join(WEIGHTS)}{foreign}: "
        "download or save them"
    )


def _shards(index: Path) -> list[str]:
    """The files that an index names.

    Raises:
        CheckpointError: the index is damaged, or names a file that is not in its folder.
    """
    shards = sorted(set(_weight_map(index).values()), key=natural_order)
    if not shards:
        raise CheckpointError(f"{index}: names no tensors")
    for shard in shards:
        if Path(shard).name != shard or shard in ("", ".."):
            raise CheckpointError(f"{index}: names the file '{shard}' outside of its folder")
        if not (index.parent / shard).is_file():
            raise CheckpointError(f"{index}: names {shard}, which is not there: download it again")
    return shards


def _weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor, as an index tells it.

    Raises:
        CheckpointError: the index is damaged.
    """
    files = read_object(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise CheckpointError(f"{index}: damaged: 'weight_map' must give a file for each tensor")
    return files


def _check_index(index: Path, parts: Mapping[str, Checkpoint]) -> None:
    """Check that an index and its shards name the same tensors.

    Raises:
        CheckpointError: they do not.
    """
    wanted = _weight_map(index)
    for name, shard in wanted.items():
        if name not in parts[shard].infos and name not in parts[shard].opaque:
            raise CheckpointError(
                f"{index}: says that {shard} holds '{name}', which it does not: "
                "index and shards are not of one model"
            )
    for shard, part in parts.items():
        extra = next((name for name in part.distinct if wanted.get(name) != shard), None)
        if extra is not None:
            raise CheckpointError(
                f"{index}: does not say that {shard} holds '{extra}', which it does: "
                "index and shards are not of one model"
            )
