"""Find the tensors of a checkpoint that are the weights of fully connected layers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import islice, pairwise

from rmtcli.checkpoint import Checkpoint, TensorInfo
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.checkpoint.names import member, module_of
from rmtcli.errors import UsageError
from rmtcli.layers.foreign import foreign
from rmtcli.layers.layer import Layer, Selection, Skipped, SkipReason
from rmtcli.layers.order import Link, ordered
from rmtcli.layers.view import GATES, View

#: Words in the name of a module without a bias that say it is an embedding.
_EMBEDDING = re.compile(r"(^|[._])(\w*embed\w*|emb|wte|wpe|relative_attention_bias)([._]|$)")
#: Last word of a module's name that says it is an output head.
_HEAD = re.compile(r"(^|\.)(\w*head|classifier|score|logits|cls|fc_out|embed_out)$")
#: A recurrent layer's matrices, as torch names them.
_RECURRENT = re.compile(r"(^|[._])weight_(ih|hh)(_l\d+(_reverse)?)?$")
#: Names of modules that choose among experts, if there are experts beside them.
_ROUTERS = ("gate", "router", "wg")
#: The projections in torch's attention module, and the layers that each holds by rows.
_ATTENTION = {"in_proj_weight": ("q", "k", "v")} | {f"{x}_proj_weight": ("",) for x in "qkv"}
#: A stack of experts' matrices.
_EXPERTS = re.compile(r"(^|\.)experts(\.\w+)+$")


def find_layers(
    checkpoint: Checkpoint, selection: Selection | None = None
) -> Iterator[Layer | Skipped]:
    """Yield every fully connected layer, and every other matrix with the reason why it is not one.

    A layer is a floating-point matrix named ``weight`` or ``….weight`` that is not an embedding: a
    module whose name says so (``embed…``, ``emb``, ``wte``, ``wpe``) and that has no bias. An
    output head is the last layer, if the file tells which one that is (a torch file, or a chain);
    one whose name says so (``…head``, ``classifier``, ``score``); or one with few outputs. Only a
    pattern that is a head's whole name makes it an ordinary layer. One-dimensional tensors (biases,
    norms) are not listed, unless another tool keeps weights in them. Each matrix in a stack of
    experts is a layer, and so are the projections in torch's attention module; convolutions and
    the gates of recurrent layers are layers if the selection asks for them.

    Args:
        checkpoint: the network; its order is kept.
        selection: which matrices the user wants treated as layers.

    Raises:
        UsageError: a pattern that matches no tensor of the checkpoint.
    """
    selection = selection or Selection()
    _check_patterns(checkpoint, selection)
    reasons = _reasons(checkpoint, selection)
    layers = [name for name, reason in reasons.items() if reason is None]
    heads = _heads(checkpoint, layers, selection)
    reasons |= {name: SkipReason.EXCLUDED for name in layers if selection.leaves_out(name)}
    crowded = _crowded(checkpoint, {module_of(name) for name in layers})
    tied: dict[str, tuple[str, ...]] = {}
    for name, first in _ties(checkpoint, reasons).items():
        reasons[name] = reasons[name] or SkipReason.TIED
        tied[first] = (*tied.get(first, ()), name)
    for name, reason in reasons.items():
        if reason is not None:
            yield Skipped(name, reason)
        else:
            names = tied.get(name, ())
            others = not crowded.isdisjoint(map(module_of, (name, *names)))
            head = not heads.isdisjoint((name, *names))
            for layer in _layers(checkpoint, name, names, head):
                alone = not (others and layer.view.splits)
                view = layer.view if alone else replace(layer.view, splits=False, others=True)
                yield replace(layer, view=view)


def _reasons(checkpoint: Checkpoint, selection: Selection) -> dict[str, SkipReason | None]:
    """For every matrix, and whatever else may hold one: why it is not a layer; None if it is one.

    These are the reasons that the tensor itself gives; its position among the others may add one.
    """
    reasons: dict[str, SkipReason | None] = {}
    for name in (*checkpoint.infos, *checkpoint.opaque):
        reason = foreign(checkpoint, name)
        if reason is not None:
            reasons[name] = reason
        elif name in checkpoint.infos and len(checkpoint.infos[name].shape) >= 2:
            reasons[name] = _skip_reason(checkpoint, name, selection)
    return reasons


def _check_patterns(checkpoint: Checkpoint, selection: Selection) -> None:
    for pattern in (*selection.include, *selection.exclude):
        if not any(fnmatchcase(name, pattern) for name in checkpoint.infos):
            raise UsageError(
                f"pattern '{pattern}' matches no tensor in {checkpoint.path}: "
                "'rmtcli analyze' lists the names"
            )


def _ties(checkpoint: Checkpoint, reasons: Mapping[str, SkipReason | None]) -> Mapping[str, str]:
    """For each tensor tied to an earlier layer, embedding or excluded matrix: the earlier one.

    Embeddings and excluded matrices count as earlier than all layers, so that a layer tied to one
    of them stays as it is too.
    """
    fixed = (SkipReason.EMBEDDING, SkipReason.EXCLUDED)
    names = [name for name, reason in reasons.items() if reason in fixed]
    names += [name for name, reason in reasons.items() if reason is None]
    return checkpoint.ties(names)


def _layers(
    checkpoint: Checkpoint, name: str, tied: tuple[str, ...], head: bool
) -> Iterator[Layer]:
    """The layers in one tensor."""
    info = checkpoint.infos[name]
    for view in _views(checkpoint, name):
        yield Layer(
            f"{name}:{view.label}" if view.label else name,
            view.shape(info.shape),
            info.dtype,
            partial(view.read, checkpoint, name),
            tied,
            1 + len(set(tied) - checkpoint.aliases.keys()),
            head,
            view,
        )


def _heads(checkpoint: Checkpoint, names: Sequence[str], selection: Selection) -> set[str]:
    """The output heads among these weights; patterns count only if they are a whole name."""
    vocabularies, infos = checkpoint.about.vocabularies, checkpoint.infos
    shapes = {name: _views(checkpoint, name)[0].shape(infos[name].shape) for name in names}
    named = {
        name
        for name in names
        if _HEAD.search(module_of(name)) or infos[name].shape[0] in vocabularies
    }
    narrow = {name for name in names if shapes[name][0] < selection.min_side}
    # A tied name says nothing about the order, unless it is a head's.
    tied = checkpoint.ties(names).keys() - named
    untied = [name for name in names if name not in tied]
    links = [Link(name, *reversed(shapes[name])) for name in untied]
    chain = ordered(links, as_stored=checkpoint.as_stored)
    last = {chain[-1].name} if chain else set()
    if checkpoint.as_stored:
        last = set(untied[-1:])
    return (named | narrow | last) - set(selection.include)


def _skip_reason(checkpoint: Checkpoint, name: str, selection: Selection) -> SkipReason | None:
    """Why a tensor of two or more dimensions is not a layer, by its name, type and shape.

    None if it is one, as far as these tell.
    """
    info = checkpoint.infos[name]
    if info.dtype in FLOATS and info.size:
        if selection.recurrent and _RECURRENT.search(name) and len(info.shape) == 2:
            return None if _gates(checkpoint, name) else SkipReason.NO_GATES
        if _is_stack(name, info) or _projections(checkpoint, name):
            return SkipReason.QUANTIZED if checkpoint.about.quantized else None
    return _skip_reason_of_weight(checkpoint, name, selection)


def _skip_reason_of_weight(
    checkpoint: Checkpoint, name: str, selection: Selection
) -> SkipReason | None:
    """Why a tensor is neither a linear layer's weight nor, if asked for, a convolution's."""
    info, module = checkpoint.infos[name], module_of(name)
    bias = checkpoint.infos.get(member(module, "bias"))
    weight = name.rpartition(".")[2] == "weight"
    deep = len(info.shape) > 2
    kernel = selection.convolutions and weight and len(info.shape) in (3, 4, 5)
    looked_up = bias is None and not deep and _is_embedding(checkpoint, module, info)
    # The first reason that applies is the one that is reported.
    reasons = (
        (info.dtype not in FLOATS, SkipReason.NOT_FLOAT),
        (deep and not kernel, SkipReason.NOT_MATRIX),
        (_RECURRENT.search(name) is not None, SkipReason.RECURRENT),
        (not weight, SkipReason.NOT_WEIGHT),
        (info.size == 0, SkipReason.EMPTY),
        (bool(checkpoint.about.quantized), SkipReason.QUANTIZED),
        (_is_factor(checkpoint, module), SkipReason.FACTOR),
        (deep and info.shape[1] == 1, SkipReason.ONE_CHANNEL),
        (looked_up, SkipReason.EMBEDDING),
        (_is_router(checkpoint, module), SkipReason.ROUTER),
        (bias is not None and bias.shape != (_outputs(checkpoint, name),), SkipReason.BIAS),
    )
    return next((reason for applies, reason in reasons if applies), None)


def _is_stack(name: str, info: TensorInfo) -> bool:
    """Whether a tensor is a stack of experts' matrices."""
    return _EXPERTS.search(name) is not None and len(info.shape) == 3


def _is_embedding(checkpoint: Checkpoint, module: str, info: TensorInfo) -> bool:
    """Whether a module's name, or the number of its rows, says that it is an embedding."""
    if _EMBEDDING.search(module):
        return True
    return info.shape[0] in checkpoint.about.vocabularies and not _HEAD.search(module)


def _is_factor(checkpoint: Checkpoint, module: str) -> bool:
    """Whether a module is one of the two that rmtcli put in another's place."""
    parent, _, last = module.rpartition(".")
    factored = checkpoint.manifest.factored if checkpoint.manifest else {}
    return parent in factored and last in ("0", "1")


def _is_router(checkpoint: Checkpoint, module: str) -> bool:
    """Whether a module chooses among the experts beside it."""
    parent, _, last = module.rpartition(".")
    experts = f"{parent}.experts." if parent else "experts."
    return last in _ROUTERS and any(name.startswith(experts) for name in checkpoint.infos)


def _outputs(checkpoint: Checkpoint, name: str) -> int:
    return _views(checkpoint, name)[0].shape(checkpoint.infos[name].shape)[0]


def _views(checkpoint: Checkpoint, name: str) -> list[View]:
    """The matrices in a tensor that is a layer, or holds several."""
    info, about = checkpoint.infos[name], checkpoint.about
    recurrent = _RECURRENT.search(name) is not None
    parts = _gates(checkpoint, name) if recurrent else _projections(checkpoint, name)
    if recurrent or len(parts) > 1:
        marks = range(0, info.shape[0] + 1, info.shape[0] // max(len(parts), 1))
        rows = zip(pairwise(marks), parts, strict=True)
        return [View(part, label=label, splits=False) for part, label in rows]
    if parts:
        return [View(splits=False)]
    if _is_stack(name, info):
        numbers = range(info.shape[0])
        return [View((i, i + 1), stacked=True, label=str(i), splits=False) for i in numbers]
    if len(info.shape) > 2:
        return [View(kernel=info.shape[2:], splits=not about.linear_only)]
    return [View(transposed=module_of(name).rpartition(".")[2] in about.transposed)]


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
    """A recurrent matrix's gates, from its rows and the width of the state; empty if unknown."""
    inner = name.replace("weight_ih", "weight_hh")
    if inner not in checkpoint.infos or len(checkpoint.infos[inner].shape) != 2:
        return ()
    rows, width = checkpoint.infos[inner].shape
    same = checkpoint.infos[name].shape[0] == rows
    # In an LSTM with a projection the state is narrower than the gates: the rows tell nothing.
    return GATES.get(rows // width, ()) if width and rows % width == 0 and same else ()
