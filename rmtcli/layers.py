"""Which tensors of a checkpoint are the weights of fully connected layers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rmtcli.chain import Link, ordered
from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.errors import UsageError
from rmtcli.names import member, module_of

#: Words in a module's name that say it is an embedding, unless it has a bias.
_EMBEDDING = re.compile(r"(^|[._])(\w*embed\w*|emb|wte|wpe|relative_attention_bias)([._]|$)")
#: Last word of a module's name that says it is an output head.
_HEAD = re.compile(r"(^|\.)(\w*head|classifier|score|logits|cls|fc_out|embed_out)$")


class SkipReason(Enum):
    """Why a tensor is not treated as a layer; the value is the sentence a user reads."""

    EXCLUDED = "left out by --include or --exclude"
    EMBEDDING = "an embedding: its rows are looked up, not multiplied"
    NOT_WEIGHT = "two-dimensional, but its name does not end in 'weight'"
    NOT_MATRIX = "not two-dimensional: a convolution or a stack of matrices"
    NOT_FLOAT = "not stored as float64, float32, float16 or bfloat16"
    EMPTY = "has no entries"
    TIED = "tied: the same weights as another entry"
    FACTOR = "already a factor that rmtcli wrote: run densify first to prune it again"
    BIAS = "its bias has not one value an output: is the weight stored as in × out?"
    RANGE = "its values are too large or too small to be squared in float64"
    NOT_FINITE = "holds values that are NaN or infinite"
    ZERO = "all its weights are zero"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which matrices are to be treated as layers.

    Attributes:
        include: glob patterns over tensor names; when given, only matches are layers. A pattern
            that is a layer's whole name also takes it even if it is an output head.
        exclude: glob patterns over tensor names to leave out.
        min_side: a layer with fewer outputs is an output head.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    min_side: int = 32

    def leaves_out(self, name: str) -> bool:
        """Whether the patterns leave a tensor out."""
        return any(fnmatchcase(name, pattern) for pattern in self.exclude) or (
            bool(self.include) and not any(fnmatchcase(name, p) for p in self.include)
        )


@dataclass(frozen=True, slots=True)
class Skipped:
    """A tensor that is left alone, and why."""

    name: str
    reason: SkipReason


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """The weight of a fully connected layer.

    Attributes:
        name: the tensor's name, such as ``fc1.weight``.
        shape: (out, in).
        dtype: stored type, by safetensors' names.
        load: reads the weight, exactly, as a float array of that shape.
        aliases: other names under which the checkpoint holds the same weight.
        copies: how many times the file stores it; 1 where aliases share one storage.
        head: whether it is an output head, which rules leave alone.
    """

    name: str
    shape: tuple[int, int]
    dtype: str
    load: Callable[[], NDArray[np.floating]]
    aliases: tuple[str, ...] = ()
    copies: int = 1
    head: bool = False

    @property
    def module(self) -> str:
        """The module's name: ``fc1`` for ``fc1.weight``, empty for a bare ``weight``."""
        return module_of(self.name)

    @property
    def size(self) -> int:
        """Number of weights, out · in."""
        return self.shape[0] * self.shape[1]

    @property
    def break_even_rank(self) -> int:
        """The largest rank r whose factors are smaller than the weight: r(out + in) < out · in."""
        return (self.size - 1) // (self.shape[0] + self.shape[1])


def find_layers(
    checkpoint: Checkpoint, selection: Selection | None = None
) -> Iterator[Layer | Skipped]:
    """Every fully connected layer, in the checkpoint's order, and every matrix that is none.

    A layer is a floating two-dimensional tensor named ``weight`` or ``….weight`` that is no
    embedding: a module whose name says so (``embed…``, ``emb``, ``wte``, ``wpe``) and that has no
    bias. An output head is the last layer where the file tells which that is (a torch file, or a
    chain), one whose name says so (``…head``, ``classifier``, ``score``), or one with few outputs;
    patterns do not change that, but for one that spells a head's whole name. One-dimensional
    tensors (biases, norms) are neither layers nor listed.

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
    kinds = {name: _kind(checkpoint, name) for name in _matrices(checkpoint)}
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
        out, inputs = checkpoint.infos[name].shape
        twins = aliases.get(name, ())
        yield Layer(
            name,
            (out, inputs),
            checkpoint.infos[name].dtype,
            partial(checkpoint.array, name),
            twins,
            1 + len(set(twins) - checkpoint.shared),
            not heads.isdisjoint((name, *twins)),
        )


def _matrices(checkpoint: Checkpoint) -> list[str]:
    return [name for name, info in checkpoint.infos.items() if len(info.shape) >= 2]


def _heads(checkpoint: Checkpoint, names: Sequence[str], selection: Selection) -> set[str]:
    """Which of these weights are output heads; patterns play no part but to overrule by name."""
    named = {name for name in names if _HEAD.search(module_of(name))}
    narrow = {name for name in names if checkpoint.infos[name].shape[0] < selection.min_side}
    # A second name of an earlier layer has no place of its own, unless it says that it is a head.
    again = checkpoint.ties(names).keys() - named
    places = [name for name in names if name not in again]
    links = [Link(name, *reversed(checkpoint.infos[name].shape)) for name in places]
    chain = ordered(links, as_stored=checkpoint.as_stored)
    last = {chain[-1].name} if chain else set()
    if checkpoint.as_stored:
        last = set(places[-1:])
    return (named | narrow | last) - set(selection.include)


def _kind(checkpoint: Checkpoint, name: str) -> SkipReason | None:
    """Why a tensor of two or more dimensions is no layer, as far as its name and type tell."""
    info, module = checkpoint.infos[name], module_of(name)
    bias = checkpoint.infos.get(member(module, "bias"))
    factored = checkpoint.manifest.factored if checkpoint.manifest else {}
    parent, _, last = module.rpartition(".")
    reasons = (
        (len(info.shape) > 2, SkipReason.NOT_MATRIX),
        (info.dtype not in FLOATS, SkipReason.NOT_FLOAT),
        (name.rpartition(".")[2] != "weight", SkipReason.NOT_WEIGHT),
        (info.size == 0, SkipReason.EMPTY),
        (parent in factored and last in ("0", "1"), SkipReason.FACTOR),
        (bias is None and bool(_EMBEDDING.search(module)), SkipReason.EMBEDDING),
        (bias is not None and bias.shape != info.shape[:1], SkipReason.BIAS),
    )
    return next((reason for applies, reason in reasons if applies), None)
