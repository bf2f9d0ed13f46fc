"""Write a network that is in memory, with rmtcli's record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rmtcli.checkpoint import find_format, open_checkpoint, write_checkpoint
from rmtcli.checkpoint.huggingface.write import WithConfig
from rmtcli.errors import UsageError
from rmtcli.files import as_path, check_target

if TYPE_CHECKING:
    from torch import nn


def save(model: nn.Module, path: str | Path, *, force: bool = False) -> None:
    """Write a module's tensors, and rmtcli's record if it was compressed.

    :func:`~rmtcli.load` reads the file into the dense class, also after the compressed module was
    trained. Matrices in few bits are written so as long as they have the values that
    :func:`~rmtcli.compress` gave them. Without the ending of a file, a model of transformers is
    written as a directory, with its configuration: ``AutoModel.from_pretrained`` opens it after
    ``import rmtcli.integrations.transformers``. A tokenizer is not part of such a model: save it
    there yourself; a SentenceTransformer brings its own.

    Args:
        model: the module.
        path: a ``.safetensors`` or ``.pt`` file; or a directory, for a model of transformers.
        force: whether an existing file may be replaced.

    Raises:
        UsageError: something else than a module, one that keeps weights in few bits, an unknown
            ending, or a path that exists.
        CheckpointError: the file differs from what was intended.
    """
    if not hasattr(model, "named_modules"):
        raise UsageError(f"save takes a torch module, not {type(model).__name__}")
    if is_kept_packed(model):
        raise UsageError(
            "the module keeps weights in few bits in memory: copy the file that it was loaded "
            "from, or load it without packed=True"
        )
    checkpoint, target = open_checkpoint(model), as_path(path)
    whole = cast("nn.Module", checkpoint.module)
    directory = find_format(target) is None and (not target.suffix or _has_config(whole))
    if directory:
        checkpoint = WithConfig(checkpoint, _config(whole, target), _files_of(whole))
    check_target(target, inputs=[], force=force, directory=directory)
    write_checkpoint(checkpoint, target, force=force)


def is_kept_packed(model: nn.Module) -> bool:
    """Whether a module keeps weights in few bits in memory."""
    from rmtcli.layouts.packed_module import PackedWeight

    return any(isinstance(module, PackedWeight) for module in model.modules())


def _has_config(whole: nn.Module) -> bool:
    """Whether a module is a model of transformers, or a SentenceTransformer around one."""
    from rmtcli.checkpoint.torch.memory import core_of, is_pretrained

    return is_pretrained(core_of(whole))


def _config(whole: nn.Module, target: Path) -> dict[str, Any]:
    """The configuration of a model of transformers, as its file has it.

    Raises:
        UsageError: it is another network.
    """
    from rmtcli.checkpoint.torch.memory import core_of

    core = core_of(whole)
    if not _has_config(whole):
        raise UsageError(
            f"{target}: only a model of transformers is written as a directory: name a "
            ".safetensors or .pt file"
        )
    config: dict[str, Any] = json.loads(cast(Any, core).config.to_json_string())
    return {**config, "architectures": [type(core).__name__]}


def _files_of(whole: nn.Module) -> Callable[[Path], None] | None:
    """A function that writes a SentenceTransformer's files into a folder; None for other models."""
    from rmtcli.checkpoint.torch.memory import is_sentence_transformer

    if not is_sentence_transformer(whole):
        return None
    return lambda folder: cast(Any, whole).save_pretrained(str(folder), create_model_card=False)
