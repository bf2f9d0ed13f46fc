"""Writing a Hugging Face directory: new weights, and every other file copied."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmtcli.checkpoint.base import Checkpoint
from rmtcli.checkpoint.dtypes import RawTensor
from rmtcli.checkpoint.edited import Edited
from rmtcli.checkpoint.huggingface.loading import LOADER, needs_loader, new_config
from rmtcli.checkpoint.huggingface.locate import INDEX, WEIGHTS, is_adapter
from rmtcli.checkpoint.huggingface.read import HuggingFaceDirectory
from rmtcli.checkpoint.packing import Packed
from rmtcli.checkpoint.safetensors import write_safetensors
from rmtcli.errors import CheckpointError
from rmtcli.files import CONFIG, is_remote
from rmtcli.files.path import inside

#: Bytes of tensors in one file, beyond which weights are divided; transformers has the same limit.
SHARD_BYTES = 5 * 10**9
_LOADER_SOURCE = Path(__file__).parents[2] / "integrations" / LOADER
#: Name of the model card's file.
CARD = "README.md"

#: Endings of files that hold a dense network's weights, or the state of its training.
_DENSE = (
    *(".safetensors", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot", ".gguf", ".tflite"),
    *(".onnx", ".onnx_data", ".mlmodel", ".mlpackage", ".pb", ".npz"),
)
_DENSE_NAMES = re.compile(r"(pytorch_model|openvino_model|model|weight).*\.bin|.*\.index\.json")
#: Folders in which other tools keep their own files.
_TOOLS = (".git", ".cache")


class Part(Checkpoint):
    """Some tensors of a checkpoint, which are written to one of several files."""

    def __init__(self, whole: Checkpoint, names: Sequence[str]) -> None:
        self.whole = whole
        self.path, self.is_directory = whole.path, whole.is_directory
        self.aliases = {name: other for name, other in whole.aliases.items() if other in names}
        self.infos = {name: whole.infos[name] for name in (*names, *self.aliases)}
        self.manifest, self.metadata = whole.manifest, whole.metadata
        self.extras, self.opaque = (), whole.opaque

    def raw(self, name: str) -> RawTensor:
        """The bytes of one tensor."""
        return self.whole.raw(name)

    def packed(self, name: str) -> Packed | None:
        """The parts of a tensor in few bits; None for any other."""
        return self.whole.packed(name)

    def nbytes(self, name: str) -> int:
        """Bytes of one tensor."""
        return self.whole.nbytes(name)

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """The ties in the whole checkpoint."""
        return self.whole.ties(names)


class WithConfig(Part):
    """A model of transformers in memory that is written as a directory.

    Args:
        whole: its tensors.
        config: its configuration, as config.json has it.
        fill: writes the files of a SentenceTransformer into a folder; None for other models.
    """

    is_directory = True

    def __init__(
        self, whole: Checkpoint, config: Mapping[str, Any], fill: Callable[[Path], None] | None
    ) -> None:
        super().__init__(whole, whole.distinct)
        self.infos, self.about, self.is_directory = whole.infos, whole.about, True
        self.config, self.fill = config, fill


def write_directory(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    card: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Fill an empty folder with a model that transformers can load.

    Args:
        checkpoint: the network, perhaps edited; its source is a directory, or a model in memory.
        folder: where the files are written.
        card: text of the model card; None keeps the source's.
        shard_bytes: size of the weights beyond which they are divided among shards.

    Raises:
        CheckpointError: the source is not a directory, or links to files outside of it.
    """
    manifest = checkpoint.manifest
    below = checkpoint.source if isinstance(checkpoint, Edited) else checkpoint
    if isinstance(below, WithConfig):
        home, old = folder, below.config
        _fill(below, folder)
    else:
        source = source_of(checkpoint)
        home, old = folder / inside(source.home, source.path), source.config
        _copy_files(source, folder)
    home.mkdir(parents=True, exist_ok=True)
    config = json.dumps(new_config(old, manifest), indent=2, ensure_ascii=False) + "\n"
    # JSON can spell a lone surrogate, which no encoding has: it stays an escape.
    (home / CONFIG).write_text(config, encoding="utf-8", errors="backslashreplace")
    if manifest and needs_loader(old, manifest) and _LOADER_SOURCE.exists():
        shutil.copyfile(_LOADER_SOURCE, home / LOADER)
    if card is not None:
        (folder / CARD).write_text(card, encoding="utf-8", errors="replace")
    _write_weights(checkpoint, home, shard_bytes)


def _fill(checkpoint: WithConfig, folder: Path) -> None:
    """Write the files that a SentenceTransformer has beside its weights."""
    if checkpoint.fill is None:
        return
    checkpoint.fill(folder)
    for file in folder.iterdir():
        if file.suffix in _DENSE or _DENSE_NAMES.fullmatch(file.name):
            file.unlink()


def _copy_files(source: HuggingFaceDirectory, folder: Path) -> None:
    """Copy the files of a directory that stay as they are.

    Raises:
        CheckpointError: it links to files outside of it.
    """
    for file in _kept(source):
        if file.name == LOADER:
            continue
        _check_inside(source, source.path / file)
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        with (source.path / file).open("rb") as old, (folder / file).open("wb") as new:
            shutil.copyfileobj(old, new)


def source_of(checkpoint: Checkpoint) -> HuggingFaceDirectory:
    """The directory that a checkpoint comes from.

    Raises:
        CheckpointError: it comes from a file.
    """
    source = checkpoint.source if isinstance(checkpoint, Edited) else checkpoint
    if not isinstance(source, HuggingFaceDirectory):
        raise CheckpointError(
            f"{source.path}: is a file, and a directory can be written from a directory only"
        )
    return source


def left_out(source: HuggingFaceDirectory) -> list[str]:
    """Names of files that hold the dense network in another format, and so are not copied."""
    kept = set(_kept(source))
    replaced = {inside(path, source.path) for path in source.weights}
    replaced |= {inside(source.home / source.main, source.path)}
    others = set(_files(source.path)) - kept - replaced
    return sorted(str(file) for file in others if not is_adapter(file.name))


def _write_weights(checkpoint: Checkpoint, home: Path, shard_bytes: int) -> None:
    """Write one file, or shards and their index; one tensor is in memory at a time."""
    groups = _shards(checkpoint, shard_bytes)
    stem, _, ending = WEIGHTS[0].partition(".")
    weight_map: dict[str, str] = {}
    for i, names in enumerate(groups, start=1):
        file = f"{stem}-{i:05}-of-{len(groups):05}.{ending}" if len(groups) > 1 else WEIGHTS[0]
        with (home / file).open("xb") as stream:
            write_safetensors(Part(checkpoint, names), stream)
        weight_map |= dict.fromkeys(names, file)
    if len(groups) > 1:
        total = sum(checkpoint.nbytes(name) for name in checkpoint.distinct)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (home / f"{WEIGHTS[0]}{INDEX}").write_text(json.dumps(index, indent=2) + "\n")


def _shards(checkpoint: Checkpoint, shard_bytes: int) -> list[list[str]]:
    """The names of the tensors in each file; only a single tensor exceeds the limit."""
    groups: list[list[str]] = [[]]
    size = 0
    for name in checkpoint.distinct:
        if groups[-1] and size + checkpoint.nbytes(name) > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += checkpoint.nbytes(name)
    return groups


def _kept(source: HuggingFaceDirectory) -> Iterator[Path]:
    """Files to copy, relative to the directory.

    Not those with weights of the dense network, or of an adapter, which fits no other.
    """
    for file in _files(source.path):
        beside = any(file.is_relative_to(folder) for folder in source.beside)
        dense = file.suffix in _DENSE or _DENSE_NAMES.fullmatch(file.name)
        if beside or not (dense or is_adapter(file.name)):
            yield file


def _check_inside(source: HuggingFaceDirectory, file: Path) -> None:
    """Refuse to copy a file that a directory only links to: it may be a secret of the user.

    The Hugging Face Hub's cache is accepted: its snapshots link to files in ``blobs`` beside them.

    Raises:
        CheckpointError: the file links outside of the directory, or is not a regular file.
    """
    root, linked = source.path.resolve(), file.resolve()
    homes = (root, root.parent.parent / "blobs") if root.parent.name == "snapshots" else (root,)
    if not any(linked.is_relative_to(home) for home in homes):
        raise CheckpointError(f"{file}: links to {linked}, outside of the directory: not copied")
    if not file.is_file():
        raise CheckpointError(f"{file}: is not a regular file: remove it")


def _files(folder: Path) -> Iterator[Path]:
    """Files in a folder and its folders, relative to it, without those of other tools."""
    if is_remote(folder):
        paths = (inside(path, folder) for path in folder.rglob("*") if path.is_file())
        yield from sorted(path for path in paths if not set(path.parts) & set(_TOOLS))
        return
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - set(_TOOLS))
        yield from (Path(root, name).relative_to(folder) for name in sorted(names))
