"""Opening a checkpoint, a file or a directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from rmtcli.checkpoint.base import Checkpoint, one_network
from rmtcli.checkpoint.formats import DIRECTORY, Deferred, Format, find_format, open_file
from rmtcli.checkpoint.hub import downloaded, named_on_hub
from rmtcli.files import as_path, is_path, reaching

if TYPE_CHECKING:
    from torch import nn


#: What a checkpoint is opened from: a path or URL, a torch module, a state dict, or a checkpoint.
Openable: TypeAlias = "str | Path | nn.Module | Mapping[str, Any] | Checkpoint"

_in_memory = Deferred("rmtcli.checkpoint.torch.memory:in_memory")


def open_checkpoint(
    source: Openable, *, key: str | None = None, file_format: Format | None = None
) -> Checkpoint:
    """Open a file or a Hugging Face directory, or a network that is in memory.

    Nothing in a file is ever executed. A remote checkpoint is read where it is; of a safetensors
    file, only the tensors that are used. The tensors of a module or state dict are not copied.

    Args:
        source: the file, directory or URL; the name of a model on the Hugging Face Hub, which is
            downloaded by huggingface_hub; or a torch module, a state dict, or a checkpoint that is
            open already.
        key: which state dict, where a torch file holds several: the keys that lead to it, joined by
            dots, such as ``ema`` or ``state.generator``.
        file_format: the format of a file whose ending does not name it.

    Raises:
        UsageError: neither a path nor a network; no such file, a directory of another kind, or an
            unknown ending; no state dict is under ``key``, or there are several and none is named.
        CheckpointError: the file is empty, damaged, or holds more than tensors and plain values.
    """
    if isinstance(source, Checkpoint):
        return source
    if not (isinstance(source, str) or is_path(source)):
        opened: Checkpoint = _in_memory(source, key)
        return opened
    path = as_path(cast("str | Path", source))
    path = downloaded(path) if named_on_hub(path) else path
    with reaching(path):
        if path.is_dir():
            if key is not None:
                raise one_network(path, "directory")
            return DIRECTORY.open(path)
        return open_file(path, file_format, key)


def open_written(
    checkpoint: Checkpoint, target: Path, *, file_format: Format | None = None
) -> Checkpoint:
    """Open what was written of a checkpoint: the same state dict, where the file holds several.

    Args:
        checkpoint: what was written.
        target: the file or directory.
        file_format: the format of a file whose ending does not name it.

    Raises:
        UsageError: there is no such file any more.
        CheckpointError: the file is damaged.
    """
    written_in = file_format or find_format(target)
    keeps_others = written_in is not None and written_in.keeps_extras
    key = checkpoint.key if keeps_others else None
    return open_checkpoint(target, key=key, file_format=file_format)
