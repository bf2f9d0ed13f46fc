"""Write a network with an adapter merged into its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rmtcli.adapters import AdaptedLayer, Adapter, Kind, Style, read_adapter
from rmtcli.adapters.names import BaseNames
from rmtcli.checkpoint import (
    DIRECTORY,
    Checkpoint,
    Edited,
    decode,
    encode,
    format_of,
    open_checkpoint,
    write_checkpoint,
)
from rmtcli.checkpoint.dtypes import FLOATS, TYPES
from rmtcli.checkpoint.huggingface.read import HuggingFaceDirectory
from rmtcli.checkpoint.in_file import InFile
from rmtcli.checkpoint.names import module_of, plain
from rmtcli.checkpoint.spill import Stored
from rmtcli.errors import LayerError
from rmtcli.files import as_path, check_target
from rmtcli.layouts import ReadBack
from rmtcli.pipeline.request import default_output
from rmtcli.pipeline.stages import describe, described
from rmtcli.report.base import Report
from rmtcli.report.formatting import count_of
from rmtcli.report.notes import on_extras

#: What may be wrong where shapes differ.
_OTHER_BASE = (
    "name the base that it was trained on; if tokens were added, save the base after "
    "model.resize_token_embeddings"
)


def merge(
    base: str | Path,
    adapter: str | Path,
    output: str | Path | None = None,
    *,
    key: str | None = None,
    force: bool = False,
    verify: bool = True,
) -> Report:
    """Write a network with a LoRA adapter merged into its weights.

    The result has the base's types, and the same bits as ``merge_and_unload`` of peft. Weights are
    computed one at a time while they are written, and computed again to compare what was written.

    Args:
        base: the network that the adapter was trained on, a file or a Hugging Face directory. It is
            never changed.
        adapter: the directory of PEFT, or the file in kohya's style.
        output: file or directory to write; by default ``<base>.merged`` beside the base.
        key: which state dict of the base, where a torch file holds several.
        force: whether an existing output may be replaced.
        verify: whether the output is read back and compared before it appears under its name.

    Returns:
        The report.

    Raises:
        UsageError: a wrong path.
        CheckpointError: a file cannot be read, or the output differs from what was intended.
        LayerError: the adapter does not fit the base.
    """
    network, change = open_checkpoint(base, key=key), read_adapter(adapter)
    target = default_output(network.path, "merged") if output is None else as_path(output)
    directory = format_of(network, target) is DIRECTORY
    inputs = [as_path(base), change.path]
    check_target(target, inputs=inputs, force=force, directory=directory)
    merged = Edited(network, edits_of(network, change), network.manifest)
    merged.stamps = {**network.stamps, **(change.source.stamps if change.source else {})}
    write_checkpoint(merged, target, force=force, verify=verify)
    replaced = f", {count_of(len(change.saved), 'tensor')} replaced" if change.saved else ""
    note = f"{count_of(len(change.layers), 'layer')} changed by {change.path}{replaced}"
    return Report(
        "merge",
        describe(network),
        output=described(target, merged),
        readback=ReadBack(len(merged.infos), {}) if verify else None,
        notes=(note, *on_extras(network, target)),
    )


def edits_of(network: Checkpoint, adapter: Adapter) -> dict[str, dict[str, Stored]]:
    """The tensors that take the place of the base's.

    Raises:
        LayerError: the adapter does not fit the base, or changes one weight twice.
    """
    from rmtcli.adapters.merged import Merged  # imports torch

    _refuse_changed(network)
    names = BaseNames(network, adapter)
    new: dict[str, Stored] = {}
    for own, stored in _distinct(adapter, names).items():
        name = names.tensor(own)
        new |= _once(network, name, _in_type(network, name, stored), new)
    whole = set(new)
    for layer in adapter.layers:
        _refuse_magnitudes(layer, adapter)
        name = names.weight(layer.module)
        weight = new[name] if name in whole else InFile(network, name)
        taken = {} if name in whole else new
        change = Merged(weight, layer, _is_transposed(network, name, layer, adapter))
        new |= _once(network, name, change, taken)
        whole.discard(name)
    return {name: {name: stored} for name, stored in new.items()}


def _distinct(adapter: Adapter, names: BaseNames) -> dict[str, Stored]:
    """The tensors that replace the base's, without copies of another one for a tied head.

    peft saves tied tables of tokens under both names. If they are equal, one is enough.
    """
    saved = dict(adapter.saved)
    for name, stored in adapter.saved.items():
        others = (x for other, x in saved.items() if other != name and x.shape == stored.shape)
        if not names.knows(name) and any(_equal(stored, other) for other in others):
            del saved[name]
    return saved


def _equal(first: Stored, second: Stored) -> bool:
    """Whether two tensors have the same type and bytes."""
    return first.dtype == second.dtype and first.read().data.data == second.read().data.data


def _refuse_changed(network: Checkpoint) -> None:
    """Refuse a base whose layers are not those that an adapter was trained on.

    Raises:
        LayerError: they are factors, or in few bits.
    """
    record = network.manifest
    if record is not None and (record.factored or record.packed):
        raise LayerError(
            f"{network.path}: rmtcli has split its layers or rounded them: merge the adapter into "
            "the dense network, or densify first"
        )
    if network.about.quantized:
        raise LayerError(
            f"{network.path}: its weights are quantised ({network.about.quantized}): merge the "
            "adapter into the network that it was made from"
        )


def _refuse_magnitudes(layer: AdaptedLayer, adapter: Adapter) -> None:
    """Refuse magnitudes of which other programs have several readings.

    Raises:
        LayerError: the layer has some.
    """
    if layer.magnitude is None:
        return
    if adapter.style is Style.KOHYA and not layer.by_input:
        raise LayerError(
            f"{adapter.path}: '{layer.module}' has magnitudes (DoRA) of outputs, which LyCORIS "
            "divides by the norms of the changed weight and ComfyUI by those of the base: merge it "
            "with the program that shall use it"
        )
    if adapter.style is Style.PEFT and layer.kind is Kind.CONVOLUTION:
        raise LayerError(
            f"{adapter.path}: '{layer.module}' has magnitudes (DoRA) of a convolution, which "
            "rmtcli does not merge: merge it with peft"
        )


def _once(
    network: Checkpoint, name: str, stored: Stored, taken: Mapping[str, Stored]
) -> dict[str, Stored]:
    """A new tensor under every name of one weight.

    Raises:
        LayerError: the weight has another change already.
    """
    every = _names_of(network, name)
    twice = next((other for other in every if other in taken), None)
    if twice is not None and not _equal(taken[twice], stored):
        raise LayerError(
            f"{network.path}: the adapter changes '{name}' and '{twice}' differently, which are "
            "one weight of the base: untie them and save the base again"
        )
    return dict.fromkeys(every, stored)


def _names_of(network: Checkpoint, name: str) -> list[str]:
    """All names of one weight: of one storage, or, in a directory, tied by the model's class."""
    shared = network.aliases.get(name, name)
    info = network.infos[name]
    alike = [other for other, its in network.infos.items() if its == info]
    names = [other for other in alike if network.aliases.get(other, other) == shared]
    config = network.config if isinstance(network, HuggingFaceDirectory) else {}
    table = bool(info.shape) and info.shape[0] in network.about.vocabularies
    if table and config.get("tie_word_embeddings", True):
        ties = network.ties([name, *(other for other in alike if other != name)])
        names += [other for other, first in ties.items() if first == name and other not in names]
    return names


def _is_transposed(network: Checkpoint, name: str, layer: AdaptedLayer, adapter: Adapter) -> bool:
    """Whether a weight is stored as in × out.

    A directory's configuration tells it; of a file, the shape, or of a square weight the adapter's
    configuration.

    Raises:
        LayerError: the change has another shape than the weight.
    """
    shape, (out, inputs) = network.infos[name].shape, layer.shape
    if layer.kind is Kind.CONVOLUTION:
        if shape == (out, *layer.right.shape[1:]):
            return False
        raise _misfit(network, name, layer)
    if layer.kind is Kind.EMBEDDING:
        transposed = True
    elif network.is_directory:
        transposed = plain(module_of(name)).rpartition(".")[2] in network.about.transposed
    else:
        square = out == inputs and bool(adapter.config.get("fan_in_fan_out"))
        transposed = square or shape == (inputs, out) != (out, inputs)
    if shape != ((inputs, out) if transposed else (out, inputs)):
        raise _misfit(network, name, layer)
    return transposed


def _misfit(network: Checkpoint, name: str, layer: AdaptedLayer) -> LayerError:
    """The error of a change of another shape than the weight."""
    return LayerError(
        f"{network.path}: '{name}' has the shape {network.infos[name].shape}, and the adapter's "
        f"change of it is {layer.shape[0]} × {layer.shape[1]}: {_OTHER_BASE}"
    )


def _in_type(network: Checkpoint, name: str, stored: Stored) -> Stored:
    """A tensor that replaces one of the base's, in its type.

    Raises:
        LayerError: it has another shape, or cannot be in the type.
    """
    info = network.infos[name]
    if stored.shape != info.shape:
        raise LayerError(
            f"{network.path}: '{name}' has the shape {info.shape}, and the adapter's own "
            f"{stored.shape}: {_OTHER_BASE}"
        )
    if stored.dtype == info.dtype:
        return stored
    try:
        if {stored.dtype, info.dtype} <= FLOATS.keys():
            return encode(decode(stored.read()), info.dtype)
    except OverflowError:
        pass
    raise LayerError(
        f"{network.path}: the adapter's '{name}' does not fit the type {TYPES[info.dtype].word}"
    )
