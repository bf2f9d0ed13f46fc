"""A fully connected layer, and a tensor that is not treated as one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from rmtcli.checkpoint import RawTensor
from rmtcli.checkpoint.names import module_of, unit_of
from rmtcli.layers.view import WHOLE, View


class SkipReason(Enum):
    """Why a tensor is not treated as a layer; the value is the sentence a user reads."""

    EXCLUDED = "left out by --include or --exclude"
    EMBEDDING = "an embedding: its rows are looked up, not multiplied; include it with --embeddings"
    NO_TOKENS = (
        "an embedding of something else than tokens, by its name or its few rows: if its rows may "
        "be approximated, give its full name with --include"
    )
    NOT_WEIGHT = "two-dimensional, but not called 'weight' or '….weight'"
    UNMULTIPLIED = (
        "its graph reads it otherwise than as the weight of linear layers: looked up, for example"
    )
    NOT_MATRIX = (
        "not two-dimensional: a convolution (include it with --conv) or a stack of matrices"
    )
    ONE_CHANNEL = (
        "a convolution with one input channel per kernel, as depthwise ones have: if it reads a "
        "single channel, give its full name with --include"
    )
    RECURRENT = "part of a recurrent layer: include it with --recurrent"
    NO_GATES = "part of a recurrent layer, but its rows are not those of an LSTM, a GRU or an RNN"
    QUANTIZED = "already quantised by another tool: prune the network that it was made from"
    ADAPTER = (
        "part of an adapter, such as LoRA: merge it into its base with rmtcli merge, and prune that"
    )
    PACKED = (
        "packed in few bits by another tool: prune the network that it was made from, or, of a "
        "directory of bitsandbytes, compressed-tensors or torchao, name the whole directory"
    )
    FLAT = (
        "flat weights of FSDP: save them with StateDictType.FULL_STATE_DICT, or consolidate them "
        "with 'accelerate merge-weights'"
    )
    PARTITIONED = (
        "empty, because ZeRO keeps the weights in other files: consolidate them with the "
        "zero_to_fp32.py that DeepSpeed puts beside the checkpoint"
    )
    REPARAMETRISED = (
        "part of a weight that torch computes from several tensors (weight_norm, spectral_norm, a "
        "mask of torch.nn.utils.prune): make it one weight, with remove_parametrizations or "
        "prune.remove, and save again"
    )
    NOT_FLOAT = "not stored as float64, float32, float16 or bfloat16"
    EMPTY = "has no entries"
    TABLE = (
        "tall, without a bias, and no layer reads its outputs: a look-up table or an output head? "
        "If it is a layer, give its full name with --include"
    )
    TRANSPOSED = "a transposed convolution, stored as in × out: --conv splits only ordinary ones"
    BILINEAR = (
        "a bilinear layer, by its name or its last side: if it is a convolution, give its full "
        "name with --include"
    )
    ROUTER = "a router: a small change to it sends tokens to other experts"
    TIED = "tied: the same weights as another tensor"
    FACTOR = "already a factor that rmtcli wrote: run densify first to prune it again"
    BIAS = (
        "its bias, or that of its siblings, does not have one value per output: is the weight "
        "stored as in × out? If it is GPT-2's, name the directory that has its config.json"
    )
    RANGE = "its values are too large or too small to be squared in float64"
    NOT_FINITE = "holds values that are NaN or infinite"
    ZERO = "all its weights are zero"
    NO_CONVERGENCE = "its singular values could not be computed: no solver converged"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which matrices are treated as layers.

    Attributes:
        include: names of tensors or modules, or glob patterns over tensor names; if given, only
            matches are layers. A layer's whole name, or its module's, selects it even if it is an
            output head.
        exclude: names or patterns of tensors to leave out.
        min_side: a layer with fewer outputs is an output head.
        convolutions: whether kernels are layers, flattened to out × in·k·k (Berlyand et al.).
        recurrent: whether the matrices of LSTMs, GRUs and RNNs are layers.
        embeddings: whether look-up tables of tokens are layers, whose inputs are one-hot.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    min_side: int = 32
    convolutions: bool = False
    recurrent: bool = False
    embeddings: bool = False

    def leaves_out(self, name: str) -> bool:
        """Whether the patterns leave a tensor out."""
        return self.excludes(name) or (
            bool(self.include) and not any(matches(name, pattern) for pattern in self.include)
        )

    def names(self, name: str) -> bool:
        """Whether a tensor, or the module whose own it is, is to be a layer by its whole name."""
        return name in self.include or module_of(name) in self.include

    def excludes(self, name: str) -> bool:
        """Whether a pattern names a tensor to leave out."""
        return any(matches(name, pattern) for pattern in self.exclude)


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern matches a tensor: its name, a module that holds it, or a glob."""
    return name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A tensor that is not treated as a layer, and why."""

    name: str
    reason: SkipReason


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """The weight of a fully connected layer, or a matrix that is treated like one.

    Attributes:
        name: the tensor's name, such as ``fc1.weight``; if a tensor holds several layers, with
            the view's label, such as ``lstm.weight_ih_l0:forget``.
        shape: (out, in).
        dtype: stored type, by safetensors' names.
        read: reads the weight's bytes as they are stored.
        tied: other names under which the checkpoint holds the weight.
        copies: how many times the file stores it; 1 if all names share one storage.
        head: whether it is an output head, which keep rules leave alone.
        view: how the tensor holds the matrix.
        narrow: whether it is taken for an output head by its few outputs, or as the only layer.
    """

    name: str
    shape: tuple[int, int]
    dtype: str
    read: Callable[[], RawTensor]
    tied: tuple[str, ...] = ()
    copies: int = 1
    head: bool = False
    view: View = WHOLE
    narrow: bool = False

    def load(self) -> NDArray[np.floating]:
        """Read the weight: its exact values, shape (out, in)."""
        return self.view.matrix(self.read())

    @property
    def tensor(self) -> str:
        """The name of the tensor that holds the weight."""
        return self.name.removesuffix(f":{self.view.label}") if self.view.label else self.name

    @property
    def module(self) -> str:
        """The name of what is replaced with the weight.

        ``fc1`` for ``fc1.weight``, empty for a bare ``weight``; the name itself for a recurrent
        layer's ``lstm.weight_ih_l0``.
        """
        return unit_of(self.tensor)

    @property
    def size(self) -> int:
        """Number of weights, out · in."""
        return self.shape[0] * self.shape[1]

    @property
    def linear(self) -> bool:
        """Whether it is a linear module of its own: no convolution, recurrent layer or table."""
        view = self.view
        return view.splits and not (view.kernel or view.recurrent or view.table)

    @property
    def break_even_rank(self) -> int:
        """The largest rank whose factors are smaller than the weight."""
        return break_even(*self.shape)


def break_even(out: int, inputs: int) -> int:
    """The largest rank r whose factors are smaller than a weight: r(out + in) < out · in."""
    return (out * inputs - 1) // (out + inputs)


def fingerprint(raw: RawTensor) -> str:
    """SHA-256 of a layer's bytes as they are stored, which does not depend on the file format."""
    return hashlib.sha256(raw.data.data).hexdigest()
