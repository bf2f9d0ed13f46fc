"""Opening and writing adapters in the style that a path or an option names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rmtcli.adapters.base import Adapter, Style
from rmtcli.adapters.kohya import kohya_metadata, kohya_tensors, read_kohya, refuse_unfit
from rmtcli.adapters.peft import CONFIG, WEIGHTS, peft_config, peft_tensors, read_peft
from rmtcli.adapters.tensors import Tensors
from rmtcli.checkpoint import open_checkpoint
from rmtcli.checkpoint.hub import downloaded, named_on_hub
from rmtcli.checkpoint.readback import check_written
from rmtcli.checkpoint.safetensors import write_safetensors
from rmtcli.errors import CheckpointError, MissingFileError, UsageError
from rmtcli.files import as_path, check_target, reaching
from rmtcli.files.atomic import staged_directory, staged_file


def read_adapter(source: str | Path) -> Adapter:
    """Open an adapter: a directory of PEFT, or a file of sd-scripts.

    The tensors are read when they are needed.

    Args:
        source: the directory, also by the file of tensors in it; the file; or the name of a model
            on the Hugging Face Hub.

    Raises:
        UsageError: there is no such file, or it is of another kind.
        CheckpointError: it is damaged, incomplete, or of a kind that is not supported.
    """
    path = as_path(source)
    path = downloaded(path) if named_on_hub(path) else path
    with reaching(path):
        if not path.exists():
            raise MissingFileError(f"{path}: no such file")
        folder = path if path.is_dir() else path.parent
        if not path.is_dir() and (path.name not in WEIGHTS or not (folder / CONFIG).exists()):
            return read_kohya(open_checkpoint(path))
        if not (folder / CONFIG).exists():
            raise UsageError(f"{path}: has no {CONFIG}: it is not the directory of an adapter")
        names = [name for name in WEIGHTS if (folder / name).exists()]
        if not names:
            raise CheckpointError(f"{path}: has no {WEIGHTS[0]}: not a whole adapter")
        return read_peft(folder, open_checkpoint(folder / names[0]))


def write_adapter(
    adapter: Adapter,
    target: str | Path,
    *,
    style: Style | str | None = None,
    prefix: str = "lora_unet",
    force: bool = False,
) -> None:
    """Write an adapter, which appears under its name complete and verified, or not at all.

    Args:
        adapter: the adapter.
        target: the directory, or in kohya's style the file.
        style: the style; by default the adapter's own.
        prefix: what names begin with in kohya's style, for an adapter that was not read from it.
        force: whether an output that exists already may be replaced.

    Raises:
        UsageError: the output cannot be written there, or the style cannot hold the adapter.
        CheckpointError: the input was changed in the meantime, or the output differs from the
            adapter.
    """
    target, style = as_path(target), Style(style or adapter.style)
    check_adapter_target(adapter, target, style=style, force=force)
    if not adapter.layers:
        raise UsageError(f"{adapter.path}: no layer is left: there is no adapter to write")
    if style is Style.KOHYA:
        _write_kohya(adapter, target, prefix, force)
    else:
        _write_peft(adapter, target, force)


def check_adapter_target(
    adapter: Adapter, target: Path, *, style: Style, force: bool, inputs: Sequence[Path] = ()
) -> None:
    """Refuse an output that cannot be written, before any work is done.

    Args:
        adapter: the adapter, as far as it is known.
        target: the directory or file to write.
        style: the style.
        force: whether an output that exists already may be replaced.
        inputs: files and directories that are read beside the adapter's own.

    Raises:
        UsageError: it is an input or exists already, has another ending than the style's, or the
            style cannot hold the adapter.
    """
    if style is Style.PEFT and adapter.style is Style.KOHYA:
        raise UsageError(
            f"{adapter.path}: names modules with underscores in place of dots, so their names in "
            "PEFT's style are not known: write it in kohya's style"
        )
    if style is Style.KOHYA:
        refuse_unfit(adapter)
    if style is Style.KOHYA and target.suffix != ".safetensors":
        raise UsageError(f"{target}: an adapter in kohya's style is a .safetensors file")
    own = [adapter.path] if adapter.source is not None else []
    directory = style is Style.PEFT
    check_target(target, inputs=[*own, *inputs], force=force, directory=directory, mark=CONFIG)


def _write_kohya(adapter: Adapter, target: Path, prefix: str, force: bool) -> None:
    tensors = Tensors(adapter.path, kohya_tensors(adapter, prefix), kohya_metadata(adapter))
    with staged_file(target, lambda file: write_safetensors(tensors, file), force=force) as path:
        check_written(open_checkpoint(path), tensors, target)
        _check_unchanged(adapter)


def _write_peft(adapter: Adapter, target: Path, force: bool) -> None:
    tensors = Tensors(adapter.path, peft_tensors(adapter), adapter.metadata)
    config = json.dumps(peft_config(adapter), indent=2) + "\n"

    def fill(folder: Path) -> None:
        with (folder / WEIGHTS[0]).open("xb") as file:
            write_safetensors(tensors, file)
        (folder / CONFIG).write_text(config, encoding="utf-8")

    with staged_directory(target, fill, last=CONFIG, force=force) as folder:
        check_written(open_checkpoint(folder / WEIGHTS[0]), tensors, target)
        _check_unchanged(adapter)


def _check_unchanged(adapter: Adapter) -> None:
    if adapter.source is not None:
        adapter.source.check_unchanged()
