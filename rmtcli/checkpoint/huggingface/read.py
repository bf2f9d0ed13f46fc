"""Reading a Hugging Face directory: a configuration, and weights in one file or in shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rmtcli.checkpoint.base import Checkpoint, FileCheckpoint
from rmtcli.checkpoint.dtypes import RawTensor
from rmtcli.checkpoint.formats import Deferred, open_file
from rmtcli.checkpoint.huggingface.config import COMPRESSED, about, read_object
from rmtcli.checkpoint.huggingface.locate import locate, model_folder, modules_of
from rmtcli.checkpoint.huggingface.record import recorded
from rmtcli.checkpoint.manifest import Manifest
from rmtcli.checkpoint.names import module_of
from rmtcli.checkpoint.packing import CODES, Packed
from rmtcli.checkpoint.safetensors import SafetensorsFile, natural_order
from rmtcli.checkpoint.ties import equal_tensors
from rmtcli.errors import CheckpointError
from rmtcli.files import CONFIG

if TYPE_CHECKING:
    from rmtcli.checkpoint.dequantised.recipe import Dequantised

_dequantised = Deferred("rmtcli.checkpoint.dequantised.tools:dequantised")


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
    is_directory = True

    def __init__(self, path: Path) -> None:
        path = model_folder(path)
        modules = modules_of(path)
        self.home = path / modules[0] if modules and not (path / CONFIG).exists() else path
        self.beside = tuple(folder for folder in modules[1:] if folder)
        weights = locate(self.home)
        self.main = weights.main
        if not (self.home / CONFIG).exists():
            raise CheckpointError(f"{self.home}: has weights and no {CONFIG}: name their file")
        super().__init__(path, first=self.home / CONFIG)
        self.config = read_object(self.home / CONFIG)
        self.about = about(self.config)
        parts = {file: open_file(self.home / file) for file in weights.files}
        unlisted = _check_parts(self.home / self.main, parts, weights.weight_map)
        self._files = tuple(parts.values())
        inside = (remark for part in self._files for remark in part.remarks)
        self.remarks = (*weights.remarks, *unlisted, *inside)
        self._made: Dequantised | None = None
        if self.about.quantized:
            self._made = _dequantised(self.home, self.config, _holders(self._files))
        if self._made is not None:
            self.remarks += (
                f"{len(self._made.infos)} weights that {self.about.quantized} has quantised are "
                "read as the values that they stand for, and written as these",
            )
        self._combine(self._files)
        if self._is_read():
            self.config = {x: self.config[x] for x in self.config if x != "quantization_config"}
            self.about = replace(self.about, quantized="")
        if self.manifest is None and (record := recorded(self.config, self.infos)) is not None:
            self.adopt(record)

    def adopt(self, record: Manifest) -> None:
        """Give all files a record that was kept elsewhere: the configuration, or another file."""
        for part in self._files:
            part.adopt(record)
        self._combine(self._files)

    def _combine(self, parts: Sequence[FileCheckpoint]) -> None:
        """List the tensors of all shards, and what else the shards hold."""
        self._parts: dict[str, Checkpoint] = _holders(parts)
        if self._made is not None:
            for name in self._made.parts:
                del self._parts[name]
            self._parts |= dict.fromkeys(self._made.infos, self._made)
        names = sorted(self._parts, key=natural_order)
        self.infos = {name: self._parts[name].infos[name] for name in names}
        self.aliases = {
            name: other
            for part in parts
            for name, other in part.aliases.items()
            if part.form == SafetensorsFile.form or self._tied_by_class(name)
        }
        self.opaque = tuple(name for part in parts for name in part.opaque)
        self.opaque_bytes = sum(part.opaque_bytes for part in parts)
        self.extras = tuple(name for part in parts for name in part.extras)
        self.manifest = self._shared_manifest(parts)
        self.metadata = {}
        for part in parts:
            self.metadata |= part.metadata
            self.stamps |= part.stamps

    def _is_read(self) -> bool:
        """Whether weights that another tool has quantised are read as what they stand for."""
        packed = self.about.quantized == COMPRESSED and any(map(self.packed, self.infos))
        if self._made is None and not packed:
            return False
        return not any(name.endswith(CODES) for name in self.infos)

    def _tied_by_class(self, name: str) -> bool:
        """Whether the model's class ties a name again when a file does not hold it.

        Classes tie embeddings to each other, and output heads to embeddings unless the
        configuration says otherwise. Any other tie is the work of whoever saved the model, and a
        file without the name would be loaded with random weights.
        """
        rows, tied = self.infos[name].shape[:1], self.config.get("tie_word_embeddings", True)
        embedding = module_of(name).endswith("embed_tokens")
        return set(rows) <= self.about.vocabularies and bool(rows) and (tied or embedding)

    def _shared_manifest(self, parts: Sequence[FileCheckpoint]) -> Manifest | None:
        """The record of the first shard that has one, of those factors that are still shared."""
        record = next((part.manifest for part in parts if part.manifest), None)
        return record and record.keep_shared(
            lambda name, _: name not in self._parts or name in self.aliases
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """Configuration and weights."""
        return (self.home / CONFIG, *self.weights)

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files that hold the tensors."""
        return tuple(part.path for part in self._files)

    def raw(self, name: str) -> RawTensor:
        """The bytes of one tensor, from its shard."""
        return self._parts[name].raw(name)

    def nbytes(self, name: str) -> int:
        """Bytes of one tensor."""
        return self._parts[name].nbytes(name)

    def packed(self, name: str) -> Packed | None:
        """The parts of a packed tensor, from its shard."""
        return self._parts[name].packed(name)

    def head(self, name: str) -> bytes:
        """The first bytes of one tensor, from its shard."""
        return self._parts[name].head(name)

    def rows(self, name: str, start: int, stop: int) -> RawTensor:
        """The entries ``start`` to ``stop`` of a tensor along its first axis, from its shard."""
        return self._parts[name].rows(name, start, stop)

    def pieces(self, name: str) -> Iterator[RawTensor]:
        """A tensor in pieces along its first axis, from its shard."""
        return self._parts[name].pieces(name)

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """Tensors of equal bytes, also in different shards."""
        return equal_tensors(self, names)


def _holders(parts: Iterable[FileCheckpoint]) -> dict[str, Checkpoint]:
    """The file of each tensor."""
    return {name: part for part in parts for name in part.infos}


def _check_parts(
    main: Path, parts: Mapping[str, Checkpoint], weight_map: Mapping[str, str] | None
) -> tuple[str, ...]:
    """Check that no tensor is in two shards, and that an index is one of these shards.

    Args:
        main: path of the index, or of the first shard.
        parts: the shards by their names.
        weight_map: the shard of each tensor, where an index tells it.

    Returns:
        A remark on tensors that the index lacks: transformers reads whole shards, so it has them.

    Raises:
        CheckpointError: a tensor is in two shards, or not in the one that the index tells.
    """
    wanted = weight_map or {}
    for name, shard in wanted.items():
        if name not in parts[shard].infos and name not in parts[shard].opaque:
            raise CheckpointError(
                f"{main}: says that {shard} holds '{name}', which it does not: "
                "index and shards are not of one model"
            )
    owners: dict[str, str] = {}
    for shard, part in parts.items():
        for name in part.distinct:
            if owners.setdefault(name, wanted.get(name, shard)) != shard:
                raise CheckpointError(
                    f"{main}: the tensor '{name}' is in {shard} as well as in {owners[name]}: "
                    "the shards are not of one model"
                )
    unlisted = [name for name in owners if name not in wanted]
    if weight_map is None or not unlisted:
        return ()
    more = f" and {len(unlisted) - 1} more" if len(unlisted) > 1 else ""
    return (
        f"the index does not list '{unlisted[0]}'{more}; kept, because transformers reads whole "
        "shards",
    )
