"""Which tensors of a checkpoint are the weights of fully connected layers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from itertools import pairwise

from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.checkpoint.names import member, module_of
from rmtcli.errors import UsageError
from rmtcli.layers.layer import Layer, Selection, Skipped, SkipReason
from rmtcli.layers.order import Link, ordered
from rmtcli.layers.view import GATES, View

#: Words in a module's name that say it is an embedding, unless it has a bias.
_EMBEDDING = re.compile(r"(^|[._])(\w*embed\w*|emb|wte|wpe|relative_attention_bias)([._]|$)")
#: Last word of a module's name that says it is an output head.
_HEAD = re.compile(r"(^|\.)(\w*head|classifier|score|logits|cls|fc_out|embed_out)$")
#: A recurrent layer's matrices, as torch names them.
_RECURRENT = re.compile(r"(^|[._])weight_(ih|hh)(_l\d+(_reverse)?)?$")
#: What choosers among experts are called, where there are experts.
_ROUTERS = ("gate", "router", "wg")
#: A stack of experts' matrices.
_EXPERTS = re.compile(r"(^|\.)experts(\.\w+)+$")


def find_layers(
    checkpoint: Checkpoint, selection: Selection | None = None
) -> Iterator[Layer | Skipped]:
    """Every fully connected layer, in the checkpoint's order, and every matrix that is none.

    A layer is a floating two-dimensional tensor named ``weight`` or ``….weight`` that is no
    embedding: a module whose name says so (``embed…``, ``emb``, ``wte``, ``wpe``) and that has no
    bias. An output head is the last layer where the file tells which that is (a torch file, or a
    chain), one whose name says so (``…head``, ``classifier``, ``score``), or one with few outputs;
    patterns do not change that, but for one that spells a head's whole name. One-dimensional
    tensors (biases, norms) are neither layers nor listed. Stacks of experts are layers, one a
    matrix; convolutions and the gates of recurrent layers where the selection asks for them.

    Args:
        checkpoint: where to look.
        selection: what the user wants treated as layers.

    Raises:
        UsageError: a pattern that matches no tensor of the checkpoint.
    """
    selection = selection or Selection()
    for pattern in (*selection.include, *selection.exclude):
        if not any(fnmatchcase(name, pattern) for name in checkpoint.infos):
            raise UsageError(
                f"pattern '{pattern}' matches no tensor in {checkpoint.path}: "
                "'rmtcli analyze' lists the names"
            )
    kinds = {name: _kind(checkpoint, name, selection) for name in _matrices(checkpoint)}
    heads = _heads(checkpoint, [name for name, kind in kinds.items() if kind is None], selection)
    skips = dict(kinds)
    for name, kind in kinds.items():
        if kind is None and selection.leaves_out(name):
            skips[name] = SkipReason.EXCLUDED
    pinned = (SkipReason.EMBEDDING, SkipReason.EXCLUDED)
    shared = [name for name, reason in skips.items() if reason is None or reason in pinned]
    # What has to stay as it is comes first whatever its place, so that it pins its twins.
    shared.sort(key=lambda name: skips[name] is None)
    aliases: dict[str, tuple[str, ...]] = {}
    for name, twin in checkpoint.ties(shared).items():
        skips[name] = skips[name] or SkipReason.TIED
        aliases[twin] = (*aliases.get(twin, ()), name)
    for name, reason in skips.items():
        if reason is not None:
            yield Skipped(name, reason)
            continue
        info, twins = checkpoint.infos[name], aliases.get(name, ())
        for view in _views(checkpoint, name):
            yield Layer(
                f"{name}:{view.label}" if view.label else name,
                view.shape(info.shape),
                info.dtype,
                partial(view.load, checkpoint, name),
                twins,
                1 + len(set(twins) - checkpoint.shared),
                not heads.isdisjoint((name, *twins)),
                view,
            )


def _matrices(checkpoint: Checkpoint) -> list[str]:
    return [name for name, info in checkpoint.infos.items() if len(info.shape) >= 2]


def _heads(checkpoint: Checkpoint, names: Sequence[str], selection: Selection) -> set[str]:
    """Which of these weights are output heads; patterns play no part but to overrule by name."""
    words, infos = checkpoint.about.vocabularies, checkpoint.infos
    sides = {name: _views(checkpoint, name)[0].shape(infos[name].shape) for name in names}
    named = {
        name for name in names if _HEAD.search(module_of(name)) or infos[name].shape[0] in words
    }
    narrow = {name for name in names if sides[name][0] < selection.min_side}
    # A second name of an earlier layer has no place of its own, unless it says that it is a head.
    again = checkpoint.ties(names).keys() - named
    places = [name for name in names if name not in again]
    links = [Link(name, *reversed(sides[name])) for name in places]
    chain = ordered(links, as_stored=checkpoint.as_stored)
    last = {chain[-1].name} if chain else set()
    if checkpoint.as_stored:
        last = set(places[-1:])
    return (named | narrow | last) - set(selection.include)


def _kind(checkpoint: Checkpoint, name: str, selection: Selection) -> SkipReason | None:
    """Why a tensor of two or more dimensions is no layer, as far as its name and type tell."""
    info, module, about = checkpoint.infos[name], module_of(name), checkpoint.about
    bias = checkpoint.infos.get(member(module, "bias"))
    factored = checkpoint.manifest.factored if checkpoint.manifest else {}
    parent, _, last = module.rpartition(".")
    weight = name.rpartition(".")[2] == "weight"
    deep = len(info.shape) > 2
    kernel = selection.convolutions and weight and len(info.shape) in (3, 4, 5)
    gates = selection.recurrent and _RECURRENT.search(name) is not None and not deep
    if gates and info.dtype in FLOATS and info.size:
        return None if _gates(checkpoint, name) else SkipReason.NO_GATES
    if _EXPERTS.search(name) and len(info.shape) == 3 and info.dtype in FLOATS and info.size:
        return SkipReason.QUANTIZED if about.quantized else None
    looked_up = bool(_EMBEDDING.search(module)) or (
        info.shape[0] in about.vocabularies and not _HEAD.search(module)
    )
    reasons = (
        (info.dtype not in FLOATS, SkipReason.NOT_FLOAT),
        (deep and not kernel, SkipReason.NOT_MATRIX),
        (_RECURRENT.search(name) is not None, SkipReason.RECURRENT),
        (not weight, SkipReason.NOT_WEIGHT),
        (info.size == 0, SkipReason.EMPTY),
        (bool(about.quantized), SkipReason.QUANTIZED),
        (parent in factored and last in ("0", "1"), SkipReason.FACTOR),
        (deep and info.shape[1] == 1, SkipReason.ONE_CHANNEL),
        (bias is None and not deep and looked_up, SkipReason.EMBEDDING),
        (_routes(checkpoint, parent, last), SkipReason.ROUTER),
        (bias is not None and bias.shape != (_outputs(checkpoint, name),), SkipReason.BIAS),
    )
    return next((reason for applies, reason in reasons if applies), None)


def _routes(checkpoint: Checkpoint, parent: str, last: str) -> bool:
    """Whether a module chooses among the experts beside it."""
    beside = f"{parent}.experts." if parent else "experts."
    return last in _ROUTERS and any(name.startswith(beside) for name in checkpoint.infos)


def _outputs(checkpoint: Checkpoint, name: str) -> int:
    return _views(checkpoint, name)[0].shape(checkpoint.infos[name].shape)[0]


def _views(checkpoint: Checkpoint, name: str) -> list[View]:
    """The matrices in a tensor that is a layer, or several."""
    info, about = checkpoint.infos[name], checkpoint.about
    if _RECURRENT.search(name):
        gates = _gates(checkpoint, name)
        marks = range(0, info.shape[0] + 1, info.shape[0] // max(len(gates), 1))
        rows = zip(pairwise(marks), gates, strict=True)
        return [View(part, label=gate, splits=False) for part, gate in rows]
    if _EXPERTS.search(name) and len(info.shape) == 3:
        numbers = range(info.shape[0])
        return [View((i, i + 1), stacked=True, label=str(i), splits=False) for i in numbers]
    if len(info.shape) > 2:
        return [View(kernel=info.shape[2:], splits=not about.linear_only)]
    return [View(transposed=module_of(name).rpartition(".")[2] in about.transposed)]


def _gates(checkpoint: Checkpoint, name: str) -> tuple[str, ...]:
    """A recurrent matrix's gates, by its rows over the width of the state; empty for none."""
    inner = name.replace("weight_ih", "weight_hh")
    if inner not in checkpoint.infos or len(checkpoint.infos[inner].shape) != 2:
        return ()
    rows, width = checkpoint.infos[inner].shape
    same = checkpoint.infos[name].shape[0] == rows
    # An LSTM with a projection has a narrower state than its gates; then rows tell nothing.
    return GATES.get(rows // width, ()) if width and rows % width == 0 and same else ()
