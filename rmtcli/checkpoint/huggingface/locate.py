"""Which files of a Hugging Face directory hold its weights, and what a folder without any is."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rmtcli.checkpoint.formats import DISTRIBUTED, find_format
from rmtcli.checkpoint.huggingface.config import is_model_directory, read_json, read_object
from rmtcli.checkpoint.safetensors import natural_order
from rmtcli.errors import CheckpointError, UsageError
from rmtcli.files import CONFIG

#: Names of a single file of weights, in the order in which transformers looks for them. An index
#: of shards has the same name and :data:`INDEX`.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
#: The configuration of an adapter, and the name of its weights.
ADAPTER = "adapter_config.json"
_ADAPTER_WEIGHTS = "adapter_model"
#: Names that other programs give to weights in such a directory, for the message of an error.
_FOREIGN = ("*.h5", "*.msgpack", "*.gguf", "*.onnx", "*.ot", "*.pth", "*.safetensors", "*.bin")
#: What transformers' Trainer leaves beside weights, with an ending of theirs.
_ARGUMENTS = "training_args.bin"
#: Weights in another precision, which transformers reads if it is told the variant's name.
_VARIANT = re.compile(r"(model\.(?P<a>[^.]+)\.safetensors|pytorch_model\.(?P<b>[^.]+)\.bin)")
_SHARD = re.compile(r"(?P<series>.+)-(\d+)-of-(?P<count>\d+)(?P<ending>\.safetensors|\.bin)")


@dataclass(frozen=True, slots=True)
class Located:
    """The weights of a directory.

    Attributes:
        main: name of the index, or else of the first file.
        files: names of the files with tensors.
        weight_map: the file of each tensor, where an index tells it.
        remarks: what was read that a user may not expect, as sentences.
    """

    main: str
    files: tuple[str, ...]
    weight_map: Mapping[str, str] | None = None
    remarks: tuple[str, ...] = ()


def model_folder(path: Path) -> Path:
    """The folder of a model: the path itself, or a snapshot in a folder of the Hub's cache.

    Raises:
        UsageError: it is a folder of another kind.
    """
    if (path / "model_index.json").exists():
        raise UsageError(f"{path}: a pipeline of several models: name the folder of one")
    if is_model_directory(path):
        return path
    if path.name.startswith("models--") and (path / "snapshots").is_dir():
        return model_folder(_snapshot(path))
    raise UsageError(
        f"{path}: {_elsewhere(path) or 'is a directory: name the checkpoint file in it'}"
    )


def _snapshot(path: Path) -> Path:
    """The snapshot to which ``main`` refers in a folder of the Hub's cache, or the only one.

    Raises:
        UsageError: there is none, or several.
    """
    main = path / "refs" / "main"
    if main.is_file() and (snapshot := path / "snapshots" / main.read_text().strip()).is_dir():
        return snapshot
    snapshots = sorted(folder for folder in (path / "snapshots").iterdir() if folder.is_dir())
    if len(snapshots) == 1:
        return snapshots[0]
    if snapshots:
        raise UsageError(f"{path}: holds {len(snapshots)} snapshots: name one in its 'snapshots'")
    model = "/".join(path.name.split("--")[1:])
    raise UsageError(
        f"{path}: a folder of the Hub's cache without a model: download it with "
        f"'hf download {model}'"
    )


def _elsewhere(folder: Path) -> str | None:
    """Where a trainer has left the weights that a folder lacks; None if nothing says so."""
    for parts in (folder, *sorted(folder.glob("*/"))):
        if any(parts.glob("*.distcp")):
            return DISTRIBUTED.format(parts)
    for home in (folder, folder.parent):
        if (home / "zero_to_fp32.py").exists() and (home / "latest").exists():
            return (
                "a checkpoint of DeepSpeed, in parts: write one file with "
                f"'python {home}/zero_to_fp32.py {home} OUTPUT'"
            )
    return None


def modules_of(path: Path) -> list[str]:
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


def locate(home: Path) -> Located:
    """The weights in a folder: of one file, of shards with or without an index, or of a variant.

    Raises:
        UsageError: the folder holds an adapter, weights of another program, or several variants.
        CheckpointError: there are no weights, or not all of them.
    """
    for name in WEIGHTS:
        if (home / name).exists():
            return Located(name, (name,), remarks=_beside(home))
        index = home / f"{name}{INDEX}"
        if index.exists():
            weight_map = _weight_map(index)
            return Located(index.name, _shards(index, weight_map), weight_map, _beside(home))
    if (home / ADAPTER).exists():
        raise UsageError(
            f"{home}: holds an adapter only: see rmtcli resize --dry-run, or rmtcli merge"
        )
    names = sorted(path.name for pattern in _FOREIGN for path in home.glob(pattern))
    return _numbered(home, names) or _variant(home, names) or _refuse(home, names)


def _beside(home: Path) -> tuple[str, ...]:
    """A remark on an adapter beside the weights."""
    if not (home / ADAPTER).exists():
        return ()
    return (
        f"the adapter beside the weights ({ADAPTER}) is neither read nor copied: to keep what it "
        "does, merge it into the model first",
    )


def is_adapter(name: str) -> bool:
    """Whether a file is an adapter's, by its name."""
    return name == ADAPTER or name.startswith(f"{_ADAPTER_WEIGHTS}.")


def _numbered(home: Path, names: Iterable[str]) -> Located | None:
    """Shards without an index, whose names tell that all of them are there.

    Raises:
        CheckpointError: some are missing.
    """
    series: dict[tuple[str, ...], list[str]] = defaultdict(list)
    stems = {name.partition(".")[0] for name in WEIGHTS}
    for name in names:
        match = _SHARD.fullmatch(name)
        if match and match["series"].partition(".")[0] in stems:
            series[match["series"], match["count"], match["ending"]].append(name)
    if len(series) != 1:
        return None
    ((_, count, _), files) = next(iter(series.items()))
    if len(files) != int(count):
        raise CheckpointError(
            f"{home}: has {len(files)} of {int(count)} shards, such as {files[0]}, and no index: "
            "download the others"
        )
    remark = f"the {len(files)} shards have no index: all of them were read"
    return Located(files[0], tuple(files), remarks=(remark,))


def _variant(home: Path, names: Iterable[str]) -> Located | None:
    """Weights of the only variant.

    Raises:
        UsageError: there are several.
    """
    matches = [match for name in names if (match := _VARIANT.fullmatch(name))]
    if not matches:
        return None
    if len({match["a"] or match["b"] for match in matches}) > 1:
        files = ", ".join(match[0] for match in matches)
        raise UsageError(f"{home}: holds several variants of the weights: name one of {files}")
    file = max(matches, key=lambda match: match[0].endswith(".safetensors"))
    remark = f"read the only variant of the weights: {file[0]}"
    return Located(file[0], (file[0],), remarks=(remark,))


def _refuse(home: Path, names: Iterable[str]) -> Located:
    """Say what a folder without weights of transformers holds instead.

    Raises:
        UsageError: weights that can be read if their file is named.
        CheckpointError: none.
    """
    foreign = list(dict.fromkeys(names))
    readable = [name for name in foreign if find_format(Path(name)) and name != _ARGUMENTS]
    standard = f"has a {CONFIG}, but no weights named {' or '.join(WEIGHTS)}"
    if elsewhere := _elsewhere(home):
        raise UsageError(f"{home}: {elsewhere}")
    if readable:
        more = f" (or another of {len(readable)} files)" if len(readable) > 1 else ""
        raise UsageError(f"{home}: {standard}: name the file itself: {home / readable[0]}{more}")
    but = f", but {', '.join(foreign[:3])}" if foreign else ""
    raise CheckpointError(f"{home}: {standard}{but}: download or save them")


def _shards(index: Path, weight_map: Mapping[str, str]) -> tuple[str, ...]:
    """The files that an index names.

    Raises:
        CheckpointError: it names a file that is not in its folder.
    """
    shards = sorted(set(weight_map.values()), key=natural_order)
    if not shards:
        raise CheckpointError(f"{index}: names no tensors")
    for shard in shards:
        if Path(shard).name != shard or shard in ("", ".."):
            raise CheckpointError(f"{index}: names the file '{shard}' outside of its folder")
        if not (index.parent / shard).is_file():
            raise CheckpointError(f"{index}: names {shard}, which is not there: download it again")
    return tuple(shards)


def _weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor, as an index tells it.

    Raises:
        CheckpointError: the index is damaged.
    """
    files = read_object(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise CheckpointError(f"{index}: damaged: 'weight_map' must give a file for each tensor")
    return files
