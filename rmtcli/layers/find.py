"""Find the tensors of a checkpoint that are the weights of fully connected layers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from itertools import islice, pairwise

from rmtcli.checkpoint import Checkpoint, TensorInfo
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.checkpoint.names import is_recurrent, member, module_of, plain, unit_of
from rmtcli.errors import UsageError
from rmtcli.layers.foreign import foreign
from rmtcli.layers.layer import Layer, Selection, Skipped, SkipReason, matches
from rmtcli.layers.order import Link, inner, ordered
from rmtcli.layers.roles import Roles, is_bilinear
from rmtcli.layers.tables import NAMED, is_token_table, looked_up, ties_of
from rmtcli.layers.view import GATES, TABLE, View

#: Similarity (difflib's ratio) from which a name may be what a pattern was meant to match.
NEAR = 0.3
#: A recurrent layer's matrices, by the end of their names.
_RECURRENT = re.compile(r"(^|[._])weight_(ih|hh|hr)(_l\d+(_reverse)?)?$")
#: The projections in torch's attention module, and the layers that each holds by rows.
_ATTENTION = {"in_proj_weight": ("q", "k", "v")} | {f"{x}_proj_weight": ("",) for x in "qkv"}
#: A stack of experts' matrices.
_EXPERTS = re.compile(r"(^|\.)experts(\.\w+)+$")


def find_layers(
    checkpoint: Checkpoint, selection: Selection | None = None, *, whole: bool = False
) -> Iterator[Layer | Skipped]:
    """Yield every fully connected layer, and every other matrix with the reason why it is not one.

    A layer is a floating-point matrix named ``weight`` or ``….weight`` that has no other role
    (``roles.py``), such as a router. Embeddings of tokens are layers if the selection asks for
    them, together with output heads that are tied to them. An output head is the last layer, if the
    file tells which one that is (a torch file, or a chain); one whose name says so (``…head``,
    ``classifier``, ``score``); or one with few outputs, which no later layer reads. Only a pattern
    that is a head's whole name makes it an ordinary layer. One-dimensional tensors (biases, norms)
    are not listed, unless another tool keeps weights in them. Each matrix in a stack of experts is
    a layer, and so are the projections in torch's attention module; convolutions and the gates of
    recurrent layers are layers if the selection asks for them, the gates of one matrix together or
    each by itself.

    Args:
        checkpoint: the network; its order is kept.
        selection: which matrices the user wants treated as layers.
        whole: whether the gates in a recurrent layer's matrix are one layer.

    Raises:
        UsageError: a pattern that matches no tensor of the checkpoint.
    """
    selection = selection or Selection()
    _check_patterns(checkpoint, selection)
    roles = Roles.of(checkpoint)
    reasons = _reasons(roles, selection)
    layers = [name for name, reason in reasons.items() if reason is None]
    tables = {name for name in layers if is_token_table(roles, name, selection)}
    multiplied = [name for name in layers if name not in tables]
    heads = _heads(roles, multiplied, selection)
    followers = checkpoint.ties([*tables, *multiplied]) if tables else {}
    reasons |= {
        name: SkipReason.EXCLUDED
        for name in layers
        if (selection.excludes if followers.get(name) in tables else selection.leaves_out)(name)
    }
    crowded = _crowded(checkpoint, {unit_of(name) for name in layers})
    tied: dict[str, tuple[str, ...]] = {}
    for name, first in ties_of(checkpoint, reasons, tables).items():
        reasons[name] = reasons[name] or SkipReason.TIED
        tied[first] = (*tied.get(first, ()), name)
    for name, reason in reasons.items():
        if reason is not None:
            yield Skipped(name, reason)
        else:
            names = tied.get(name, ())
            others = not crowded.isdisjoint(map(unit_of, (name, *names)))
            marks = [heads[x] for x in (name, *names) if x in heads and name not in tables]
            views = [TABLE] if name in tables else _views(checkpoint, name, whole=whole)
            for layer in _layers(checkpoint, name, names, views):
                alone = not (others and layer.view.splits)
                view = layer.view if alone else replace(layer.view, splits=False, others=True)
                narrow = bool(marks) and not any(marks)
                yield replace(layer, view=view, head=bool(marks), narrow=narrow)


def _reasons(roles: Roles, selection: Selection) -> dict[str, SkipReason | None]:
    """For every matrix, and whatever else may hold one: why it is not a layer; None if it is one.

    These are the reasons that the tensor itself gives; its position among the others may add one.
    """
    checkpoint = roles.checkpoint
    reasons: dict[str, SkipReason | None] = {}
    for name in (*checkpoint.infos, *checkpoint.opaque):
        reason = foreign(checkpoint, name)
        if reason is not None:
            reasons[name] = reason
        elif name in checkpoint.infos and len(checkpoint.infos[name].shape) >= 2:
            reasons[name] = _skip_reason(roles, name, selection)
    return reasons


def _check_patterns(checkpoint: Checkpoint, selection: Selection) -> None:
    """Make sure that each pattern matches a tensor.

    Raises:
        UsageError: one matches none.
    """
    for pattern in (*selection.include, *selection.exclude):
        if not any(matches(name, pattern) for name in checkpoint.infos):
            infos = checkpoint.infos.items()
            names = {module_of(name) or name: None for name, x in infos if len(x.shape) > 1}
            nearest = ", ".join(get_close_matches(pattern.strip("*"), names, cutoff=NEAR))
            hint = f"the nearest are {nearest}" if nearest else "'rmtcli analyze' lists the names"
            raise UsageError(f"pattern '{pattern}' matches no tensor in {checkpoint.path}: {hint}")


def _layers(
    checkpoint: Checkpoint, name: str, tied: tuple[str, ...], views: Sequence[View]
) -> Iterator[Layer]:
    """The layers in one tensor."""
    info = checkpoint.infos[name]
    for view in views:
        yield Layer(
            f"{name}:{view.label}" if view.label else name,
            view.shape(info.shape),
            info.dtype,
            partial(view.read, checkpoint, name),
            tied,
            1 + len(set(tied) - checkpoint.aliases.keys()),
            view=view,
        )


def _heads(roles: Roles, names: Sequence[str], selection: Selection) -> dict[str, bool]:
    """The output heads among these weights, and whether more than their shape says so.

    Patterns count only if they are a whole name.
    """
    checkpoint, infos = roles.checkpoint, roles.checkpoint.infos
    shapes = {name: _views(checkpoint, name)[0].shape(infos[name].shape) for name in names}
    named = {name for name in names if roles.is_head(name, shapes[name][0])}
    narrow = {name for name in names if shapes[name][0] < selection.min_side}
    # A tied name says nothing about the order, unless it is a head's.
    tied = checkpoint.ties(names).keys() - named
    untied = [name for name in names if name not in tied]
    links = [Link(name, *reversed(shapes[name])) for name in untied]
    chain = ordered(links, as_stored=checkpoint.as_stored)
    last = {chain[-1].name} if chain else set()
    if checkpoint.as_stored:
        last = set(untied[-1:])
    channels = [replace(x, kernel=math.prod(infos[x.name].shape[2:])) for x in links]
    narrow -= inner(channels, as_stored=checkpoint.as_stored)
    sure = named | (last if len(untied) > 1 else set())
    marked = {x for x in named | narrow | last if not _RECURRENT.search(x)}
    return {name: name in sure for name in marked if not selection.names(name)}


def _skip_reason(roles: Roles, name: str, selection: Selection) -> SkipReason | None:
    """Why a tensor of two or more dimensions is not a layer, by its name, type and shape.

    None if it is one, as far as these tell.
    """
    checkpoint, info = roles.checkpoint, roles.checkpoint.infos[name]
    if info.dtype in FLOATS and info.size:
        if selection.recurrent and _RECURRENT.search(name) and len(info.shape) == 2:
            return None if _gates(checkpoint, name) else SkipReason.NO_GATES
        if _is_stack(name, info) or _projections(checkpoint, name):
            return SkipReason.QUANTIZED if checkpoint.about.quantized else None
    return _skip_reason_of_weight(checkpoint, name, selection) or _role(roles, name, selection)


def _skip_reason_of_weight(
    checkpoint: Checkpoint, name: str, selection: Selection
) -> SkipReason | None:
    """Why a tensor is neither a matrix that can be pruned nor, if asked for, a convolution's."""
    info, weight = checkpoint.infos[name], name.rpartition(".")[2] == "weight"
    deep = len(info.shape) > 2
    kernel = selection.convolutions and weight and len(info.shape) in (3, 4, 5)
    # The first reason that applies is the one that is reported.
    reasons = (
        (info.dtype not in FLOATS, SkipReason.NOT_FLOAT),
        (name in (checkpoint.about.unmultiplied or ()), SkipReason.UNMULTIPLIED),
        (deep and not kernel, SkipReason.NOT_MATRIX),
        (_RECURRENT.search(name) is not None, SkipReason.RECURRENT),
        (not weight, SkipReason.NOT_WEIGHT),
        (info.size == 0, SkipReason.EMPTY),
        (bool(checkpoint.about.quantized), SkipReason.QUANTIZED),
        (_is_factor(checkpoint, module_of(name)), SkipReason.FACTOR),
        (deep and info.shape[1] == 1 and not selection.names(name), SkipReason.ONE_CHANNEL),
    )
    return next((reason for applies, reason in reasons if applies), None)


def _role(roles: Roles, name: str, selection: Selection) -> SkipReason | None:
    """Why a weight is that of something else than a layer; its shape counts unless it is chosen."""
    checkpoint, module = roles.checkpoint, module_of(name)
    info, bias = checkpoint.infos[name], checkpoint.infos.get(member(module, "bias"))
    if checkpoint.about.unmultiplied is not None and len(info.shape) == 2:
        outputs = info.shape[0]
        return SkipReason.ROUTER if roles.is_router(module, outputs) else None
    table = looked_up(roles, name, selection)
    if is_token_table(roles, name, selection) or table in NAMED:
        return table
    outputs = _views(checkpoint, name)[0].shape(info.shape)[0]
    deep, chosen = len(info.shape) > 2, selection.names(name)
    in_out = roles.stored_in_out(module, info)
    reasons = (
        (roles.is_router(module, outputs), SkipReason.ROUTER),
        (deep and in_out, SkipReason.TRANSPOSED),
        (deep and not chosen and is_bilinear(module, info), SkipReason.BILINEAR),
        (in_out or (bias is not None and bias.shape != (outputs,)), SkipReason.BIAS),
    )
    return next((reason for applies, reason in reasons if applies), table)


def _is_stack(name: str, info: TensorInfo) -> bool:
    """Whether a tensor is a stack of experts' matrices."""
    return _EXPERTS.search(name) is not None and len(info.shape) == 3


def _is_factor(checkpoint: Checkpoint, module: str) -> bool:
    """Whether a module is one of the two that rmtcli put in another's place."""
    parent, _, last = module.rpartition(".")
    factored = checkpoint.manifest.factored if checkpoint.manifest else {}
    return parent in factored and last in ("0", "1", "pivot", "rest")


def _views(checkpoint: Checkpoint, name: str, *, whole: bool = False) -> list[View]:
    """The matrices in a tensor that is a layer, or holds several."""
    info, about = checkpoint.infos[name], checkpoint.about
    recurrent = _RECURRENT.search(name) is not None
    parts = _gates(checkpoint, name) if recurrent else _projections(checkpoint, name)
    if len(parts) > 1 and not (recurrent and whole):
        marks = range(0, info.shape[0] + 1, info.shape[0] // len(parts))
        rows = zip(pairwise(marks), parts, strict=True)
        return [View(part, recurrent=recurrent, label=x, splits=False) for part, x in rows]
    if recurrent:
        splits = whole and is_recurrent(name) and not about.linear_only
        return [View(recurrent=True, splits=splits)]
    if parts:
        return [View(splits=False)]
    if _is_stack(name, info):
        numbers = range(info.shape[0])
        return [View((i, i + 1), stacked=True, label=str(i), splits=False) for i in numbers]
    if len(info.shape) > 2:
        return [View(kernel=info.shape[2:], splits=not about.linear_only)]
    return [View(transposed=plain(module_of(name)).rpartition(".")[2] in about.transposed)]


def _crowded(checkpoint: Checkpoint, modules: set[str]) -> set[str]:
    """Those of these modules that hold more than a weight and a bias, themselves or below."""
    crowded: set[str] = set()
    for name in (*checkpoint.infos, *checkpoint.opaque):
        own = name.rpartition(".")[2] in ("weight", "bias")
        crowded |= modules & set(islice(_around(module_of(name)), int(own), None))
    return crowded


def _around(module: str) -> Iterator[str]:
    """A module and those that it lies in."""
    yield module
    while module:
        module = module_of(module)
        yield module


def _projections(checkpoint: Checkpoint, name: str) -> tuple[str, ...]:
    """Labels of the layers in a projection of torch's attention module; empty for other tensors."""
    module, _, last = name.rpartition(".")
    output = checkpoint.infos.get(member(module, "out_proj.weight"))
    labels, shape = _ATTENTION.get(last, ()), checkpoint.infos[name].shape
    if output is None or len(shape) != 2 or output.shape != (output.shape[0],) * 2:
        return ()
    return labels if shape[0] == output.shape[0] * len(labels) else ()


def _gates(checkpoint: Checkpoint, name: str) -> tuple[str, ...]:
    """A recurrent matrix's gates, from its rows and the width of the cell; empty if unknown.

    A projection, whose inputs have that width and whose outputs are the state, counts as one gate.
    """
    inner, projection = (
        checkpoint.infos.get(_RECURRENT.sub(rf"\g<1>weight_{kind}\g<3>", name))
        for kind in ("hh", "hr")
    )
    if inner is None or any(info and len(info.shape) != 2 for info in (inner, projection)):
        return ()
    rows, width = inner.shape
    if projection is not None:
        width = projection.shape[1] if projection.shape[0] == width else 0
    gates = GATES.get(rows // width, ()) if width and rows % width == 0 else ()
    if checkpoint.infos[name] is projection:
        return GATES[1] if gates else ()
    return gates if checkpoint.infos[name].shape[0] == rows else ()
