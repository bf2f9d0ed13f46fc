"""Opening what the commands that look at networks take: a network, or an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from rmtcli.checkpoint import Checkpoint, Openable, open_checkpoint
from rmtcli.checkpoint.huggingface.locate import ADAPTER
from rmtcli.files import CONFIG, as_path

if TYPE_CHECKING:
    from rmtcli.adapters import Adapter


def opened(model: Openable, key: str | None = None) -> tuple[Checkpoint, Adapter | None]:
    """A checkpoint, and the adapter that it is, if it is one.

    Raises:
        UsageError: a wrong path.
        CheckpointError: it cannot be read.
    """
    if _is_peft(model):
        from rmtcli.adapters import read_adapter

        adapter = read_adapter(model)
        if adapter.source is not None:
            return adapter.source, adapter
    checkpoint = open_checkpoint(model, key=key)
    if any(name.endswith(".lora_down.weight") for name in checkpoint.infos):
        from rmtcli.adapters.kohya import read_kohya

        return checkpoint, read_kohya(checkpoint)
    return checkpoint, None


def _is_peft(model: Openable) -> TypeGuard[str | Path]:
    """Whether it is a directory that holds an adapter and no network."""
    if not isinstance(model, str | Path):
        return False
    path = as_path(model)
    return (path / ADAPTER).exists() and not (path / CONFIG).exists()
