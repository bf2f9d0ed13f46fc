"""Writing a Hugging Face directory: new weights, and everything else as it was."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmtcli.checkpoint.base import Checkpoint
from rmtcli.checkpoint.dtypes import RawTensor
from rmtcli.checkpoint.edited import Edited
from rmtcli.checkpoint.huggingface.config import CONFIG, METHOD
from rmtcli.checkpoint.huggingface.read import INDEX, WEIGHTS, HuggingFaceDirectory
from rmtcli.checkpoint.manifest import Manifest
from rmtcli.checkpoint.safetensors import write_safetensors
from rmtcli.errors import CheckpointError
from rmtcli.files import is_remote
from rmtcli.files.path import inside

#: Bytes of tensors in one file, as transformers divides them.
SHARD_BYTES = 5 * 10**9
#: The file that registers rmtcli's layers with transformers, in our package and in a directory.
LOADER = "rmtcli_loading.py"
_LOADER_SOURCE = Path(__file__).parents[2] / "integrations" / LOADER
#: The model card.
CARD = "README.md"

#: Endings of files that hold a dense network's weights, or the state of its training.
_DENSE = (
    *(".safetensors", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot", ".gguf", ".tflite"),
    *(".onnx", ".onnx_data", ".mlmodel", ".mlpackage", ".pb", ".npz"),
)
_DENSE_NAMES = re.compile(r"(pytorch_model|openvino_model|model|weight).*\.bin|.*\.index\.json")
#: What tools keep in a directory for themselves.
_OTHERS = (".git", ".cache")


class Part(Checkpoint):
    """Some tensors of a checkpoint: what one file of several holds."""

    def __init__(self, whole: Checkpoint, names: Sequence[str]) -> None:
        self.whole = whole
        self.path = whole.path
        self.infos = {name: whole.infos[name] for name in names}
        self.manifest, self.metadata = whole.manifest, whole.metadata
        self.extras, self.opaque = (), whole.opaque

    def raw(self, name: str) -> RawTensor:
        """The bytes of one tensor."""
        return self.whole.raw(name)

    def nbytes(self, name: str) -> int:
        """Size of one tensor."""
        return self.whole.nbytes(name)

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """The ties of the whole."""
        return self.whole.ties(names)


def write_directory(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    card: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Fill an empty folder with a model that transformers can load.

    Args:
        checkpoint: the network, perhaps edited; its source is a directory.
        folder: where the files are written.
        card: text of the model card; None keeps the source's.
        shard_bytes: size of the weights beyond which they are divided among shards.

    Raises:
        CheckpointError: the source is not a directory, or links to files outside of it.
    """
    source = source_of(checkpoint)
    home = folder / inside(source.home, source.path)
    manifest = checkpoint.manifest
    for file in _kept(source):
        if file.name == LOADER:
            continue
        _check_inside(source, source.path / file)
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        with (source.path / file).open("rb") as old, (folder / file).open("wb") as new:
            shutil.copyfileobj(old, new)
    home.mkdir(parents=True, exist_ok=True)
    config = json.dumps(configured(source.config, manifest), indent=2, ensure_ascii=False) + "\n"
    # Half a character, which JSON can spell and no encoding has, stays spelt.
    (home / CONFIG).write_text(config, encoding="utf-8", errors="backslashreplace")
    if manifest and manifest.factored and _LOADER_SOURCE.exists():
        shutil.copyfile(_LOADER_SOURCE, home / LOADER)
    if card is not None:
        (folder / CARD).write_text(card, encoding="utf-8", errors="replace")
    _write_weights(checkpoint, home, shard_bytes)


def source_of(checkpoint: Checkpoint) -> HuggingFaceDirectory:
    """The directory that a checkpoint comes from.

    Raises:
        CheckpointError: it comes from a file.
    """
    source = checkpoint.source if isinstance(checkpoint, Edited) else checkpoint
    if not isinstance(source, HuggingFaceDirectory):
        raise CheckpointError(f"{source.path}: is no directory, so none can be made from it")
    return source


def left_out(source: HuggingFaceDirectory) -> list[str]:
    """Files that hold the dense network in some other way, and so have no place in the result."""
    kept = set(_kept(source))
    replaced = {inside(path, source.path) for path in source.weights}
    replaced |= {inside(source.home / source.main, source.path)}
    gone = set(_files(source.path)) - kept - replaced
    return sorted(map(str, gone))


def configured(config: Mapping[str, Any], manifest: Manifest | None) -> dict[str, Any]:
    """A configuration with what a loader must know of split layers, or without if none is."""
    split = manifest is not None and bool(manifest.factored)
    new = {key: value for key, value in config.items() if key != "quantization_config"}
    other = config.get("quantization_config")
    if other and not (isinstance(other, dict) and other.get("quant_method") == METHOD):
        new["quantization_config"] = other
    found = new.pop("auto_map", None)
    automatic = dict(found) if isinstance(found, dict) else {}
    ours = LOADER.removesuffix(".py")
    if str(automatic.get("AutoConfig", "")).startswith(f"{ours}."):
        del automatic["AutoConfig"]
    name = config_class(config)
    if split and name and "AutoConfig" not in automatic:
        automatic["AutoConfig"] = f"{ours}.{name}"
    if automatic:
        new["auto_map"] = automatic
    if manifest is not None and split:
        new["quantization_config"] = entry(manifest)
    return new


def entry(manifest: Manifest) -> dict[str, Any]:
    """What ``quantization_config`` says of split layers, for ``rmtcli_loading.py``."""
    found = {"quant_method": METHOD, "version": 1, "ranks": dict(manifest.factored)}
    return found | ({"shared": dict(manifest.shared)} if manifest.shared else {})


def config_class(config: Mapping[str, Any]) -> str | None:
    """The name of transformers' class for a configuration; None where it has none, or is absent."""
    try:
        from transformers.models.auto import configuration_auto
    except ImportError:
        return None
    found = vars(configuration_auto)["CONFIG_MAPPING_NAMES"].get(str(config.get("model_type")))
    return None if found is None else str(found)


def _write_weights(checkpoint: Checkpoint, home: Path, shard_bytes: int) -> None:
    """One file, or shards and their index; one tensor in memory at a time."""
    groups: list[list[str]] = [[]]
    size = 0
    for name in checkpoint.distinct:
        if groups[-1] and size + checkpoint.nbytes(name) > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += checkpoint.nbytes(name)
    stem, _, ending = WEIGHTS[0].partition(".")
    places: dict[str, str] = {}
    for i, names in enumerate(groups, start=1):
        file = f"{stem}-{i:05}-of-{len(groups):05}.{ending}" if len(groups) > 1 else WEIGHTS[0]
        with (home / file).open("xb") as stream:
            write_safetensors(Part(checkpoint, names), stream)
        places |= dict.fromkeys(names, file)
    if len(groups) > 1:
        total = sum(checkpoint.nbytes(name) for name in checkpoint.distinct)
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (home / f"{WEIGHTS[0]}{INDEX}").write_text(json.dumps(index, indent=2) + "\n")


def _kept(source: HuggingFaceDirectory) -> Iterator[Path]:
    """Files to copy, relative to the directory: all that hold no weights of the dense network."""
    for file in _files(source.path):
        beside = any(file.is_relative_to(folder) for folder in source.beside)
        dense = file.suffix in _DENSE or _DENSE_NAMES.fullmatch(file.name)
        if beside or not dense:
            yield file


def _check_inside(source: HuggingFaceDirectory, file: Path) -> None:
    """Refuse to copy what a directory only points to: it may be a secret of whoever copies it.

    A cache of the Hugging Face Hub keeps all files in ``blobs``, beside its snapshots.

    Raises:
        CheckpointError: the file is a link to somewhere else, or no file.
    """
    root, found = source.path.resolve(), file.resolve()
    homes = (root, root.parent.parent / "blobs") if root.parent.name == "snapshots" else (root,)
    if not any(found.is_relative_to(home) for home in homes):
        raise CheckpointError(f"{file}: links to {found}, outside of the directory: not copied")
    if not file.is_file():
        raise CheckpointError(f"{file}: leads to no file: remove it")


def _files(folder: Path) -> Iterator[Path]:
    if is_remote(folder):
        paths = (inside(path, folder) for path in folder.rglob("*") if path.is_file())
        yield from sorted(path for path in paths if not set(path.parts) & set(_OTHERS))
        return
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - set(_OTHERS))
        yield from (Path(root, name).relative_to(folder) for name in sorted(names))
