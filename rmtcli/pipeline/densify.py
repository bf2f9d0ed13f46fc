"""Multiply factors back into dense weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from rmtcli.checkpoint import (
    DIRECTORY,
    Checkpoint,
    Edited,
    format_of,
    open_checkpoint,
    write_checkpoint,
)
from rmtcli.errors import LayerError, UsageError
from rmtcli.files import as_path, check_target
from rmtcli.layouts import ReadBack, split_modules, widened
from rmtcli.options import option
from rmtcli.pipeline.factors import UNBALANCED, balances, dense_weights, recorded
from rmtcli.pipeline.request import default_output
from rmtcli.pipeline.stages import Planned, describe, described, on_tensors
from rmtcli.report.base import Report
from rmtcli.report.card import read_card, without_section
from rmtcli.report.notes import on_extras

if TYPE_CHECKING:
    from torch import nn

M = TypeVar("M", bound="nn.Module")
#: What a record says of factors and of few bits.
_OF_FACTORS = ("factored", "shared", "pivoted", "tables", "ranks", "packed")


@overload
def densify(
    model: str | Path,
    output: str | Path | None = None,
    *,
    key: str | None = None,
    record: str | Path | None = None,
    force: bool = False,
    verify: bool = True,
) -> Report: ...


@overload
def densify(model: M) -> M: ...


def densify(
    model: Any,
    output: str | Path | None = None,
    *,
    key: str | None = None,
    record: str | Path | None = None,
    force: bool = False,
    verify: bool = True,
) -> Any:
    """Multiply the factors of a file that rmtcli wrote back into dense weights.

    Of a module that :func:`~rmtcli.compress` or :func:`~rmtcli.load` made, the result is a dense
    copy, also after it was trained; nothing is written.

    The file may have been trained and saved again without rmtcli's record. The record is then
    taken from ``record`` or from a directory's configuration; or the factors are told by their
    names and norms, and a note says so.

    Hidden layers of a directory that have widths of their own get units without effect up to the
    width in its ``config.json``, so that it opens without rmtcli.

    Args:
        model: a factored checkpoint, a file or a Hugging Face directory; or a compressed module.
        key: which state dict, where a torch file holds several, such as ``ema`` or
            ``state.generator``.
        output: file or directory to write; by default the input's name with ``.dense`` in place of
            ``.pruned``. Not for a module.
        record: the file or directory that ``prune`` wrote, for a file that lost its record.
        force: whether an existing output may be replaced.
        verify: whether the output is read back and compared before it appears under its name.

    Returns:
        The report; of a module, the dense module.

    Raises:
        UsageError: a wrong path, or ``record`` holds no record, or is not needed.
        CheckpointError: the file cannot be read, or the output differs from what was intended.
        LayerError: it holds no factors, or not those that its record names; or, without a record,
            layers that may be the network's own.
    """
    if hasattr(model, "named_modules"):
        return _dense_copy(model, output)
    checkpoint = open_checkpoint(model, key=key)
    target = default_output(checkpoint.path, "dense") if output is None else as_path(output)
    directory = format_of(checkpoint, target) is DIRECTORY
    inputs = [as_path(file) for file in (model, record) if file is not None]
    check_target(target, inputs=inputs, force=force, directory=directory)
    notes = _settle_record(checkpoint, record)
    card = without_section(read_card(checkpoint)) or None if directory else None
    _refuse_narrow(checkpoint)
    manifest = checkpoint.manifest
    wide = manifest is not None and bool(manifest.shapes)
    packed = any(map(checkpoint.packed, checkpoint.infos))
    # Without a record, tensors in few bits are written as what they stand for.
    edits = dense_weights(checkpoint, needed=not (packed or wide))
    dense = Edited(checkpoint, edits, None)
    if manifest is not None and directory:
        shapes = {name: manifest.narrowed[name] for name in manifest.shapes}
        dense = widened(dense, shapes, checkpoint.about.transposed)
    write_checkpoint(dense, target, card=card, force=force, verify=verify)
    return Report(
        "densify",
        describe(checkpoint),
        output=described(target, dense),
        readback=ReadBack(len(dense.infos), {}) if verify else None,
        notes=(
            *notes,
            *on_tensors(checkpoint, Planned((), ())),
            *on_extras(checkpoint, target),
        ),
    )


def _dense_copy(model: nn.Module, output: object) -> nn.Module:
    """A dense copy of a compressed module, on the module's device.

    Raises:
        UsageError: an output beside it.
        LayerError: it has no factors, or its dense structure is not known.
    """
    from rmtcli.checkpoint.torch.memory import bare, core_of, put_record
    from rmtcli.layouts.copies import kept_shell, own_copy, put_values, shared_copy
    from rmtcli.layouts.resize import resize

    checkpoint = open_checkpoint(model)
    if output is not None:
        raise UsageError("a module is made dense in memory: leave out the output, and save it")
    _refuse_narrow(checkpoint)
    manifest, core = checkpoint.manifest, core_of(model)
    packed = any(map(checkpoint.packed, checkpoint.infos))
    edits = dense_weights(checkpoint, needed=not packed)
    shell = kept_shell(core)
    if shell is None or manifest is None:
        raise LayerError(
            f"{checkpoint.path}: its dense structure is not known, because the module cannot be "
            "copied or was not made by rmtcli: save it, and densify the file"
        )
    none: dict[str, Any] = {key: {} for key in _OF_FACTORS}
    left = replace(manifest, **none)
    network = Edited(checkpoint, edits, left if manifest.narrowed else None)
    dense, first = own_copy(shell), next(core.parameters())
    resize(dense, network, "")
    put_values(dense, network, set(network.infos), device=first.device)
    modules = dict(core.named_modules())
    for name, module in dense.named_modules():
        module.training = modules.get(name, core).training
    put_record(dense, network.manifest)
    whole = bare(model)
    if whole is core:
        return dense.to(first.device)
    copy = shared_copy(whole)
    old = core_of(copy)
    for module in list(copy.modules()):
        own = (name for name, child in module._modules.items() if child is old)
        for name in list(own):
            module._modules[name] = dense.to(first.device)
    return copy


def _refuse_narrow(checkpoint: Checkpoint) -> None:
    """Say of a network that is only narrower, and needs no loader, that it is dense already.

    Raises:
        LayerError: it has narrower hidden layers, and no factors.
    """
    record = checkpoint.manifest
    narrowed = record is not None and record.narrowed and not record.shapes
    packed = any(map(checkpoint.packed, checkpoint.infos))
    if narrowed and not packed and not split_modules(checkpoint):
        raise LayerError(
            f"{checkpoint.path}: its hidden layers were made narrower, and its layers are dense: "
            "there is nothing to undo"
        )


def _settle_record(checkpoint: Checkpoint, record: str | Path | None) -> tuple[str, ...]:
    """Make sure that it is known which modules are factors; a note if only their names tell.

    Raises:
        UsageError: ``record`` holds no record, or is not needed.
        LayerError: without a record, modules that may be the network's own layers.
    """
    known = recorded(checkpoint)
    if record is not None:
        if known:
            raise UsageError(
                f"{checkpoint.path}: has a record of its factors: leave out {option('record')}"
            )
        manifest = open_checkpoint(record).manifest
        if manifest is None or not manifest.factored:
            raise UsageError(
                f"{record}: holds no record of factors: name the file that prune wrote"
            )
        checkpoint.adopt(manifest)
        return ()
    modules = () if known else split_modules(checkpoint)
    if not modules:
        return ()
    for module, ratio in balances(checkpoint, modules).items():
        if ratio > UNBALANCED:
            raise LayerError(
                f"{checkpoint.path}: '{module}' may be two layers of the network's own: the norms "
                f"of its weights differ {ratio:.3g} times, and rmtcli's factors are written with "
                "equal norms. If prune split it, give the file that prune wrote with "
                f"{option('record')}"
            )
    more = f" and {len(modules) - 3} more" if len(modules) > 3 else ""
    return (
        "the file was saved again without rmtcli's record, so the factors were told by their "
        f"names: {', '.join(modules[:3])}{more}",
    )
