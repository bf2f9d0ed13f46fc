"""What a matrix is for: evidence from names, biases, and the tensors around it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rmtcli.checkpoint import Checkpoint, TensorInfo
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.checkpoint.names import member, module_of, plain

#: Words in the name of a module without a bias that say it is an embedding.
_EMBEDDING = re.compile(
    r"(^|[._])(\w*embed\w*|emb|wte|wpe|relative_attention_bias)([._]|$)"
    r"|(^|\.)(shared|\w+_factors)$"
)
#: Last word of a module's name that says it is an output head.
_HEAD = re.compile(r"(^|\.)(\w*heads?(\.\d+)?|classifier|score|logits|cls|fc_out|embed_out)$")
#: A module that is one of a numbered series, or is inside one: a block of the network.
_NUMBERED = re.compile(r"(^|\.)\d+(\.|$)|\d[^.]*$")
#: A module that chooses among experts.
_ROUTER = re.compile(r"(^|\.)(\w+_)?router(\.|$)")
#: Names of one that say so only beside experts.
_GATES = ("gate", "gating", "wg")
#: A stack of experts, or the first part of the names of single experts.
_EXPERTS = re.compile(r"^(?:(.+?)\.)?(?!shared_)(?:\w+_)?experts\.(?:(\d+)\.)?")
#: Layers that transformers stores as in × out in some models, and which others store as out × in.
_CONV1D = re.compile(r"(^|\.)(c_attn|q_attn|c_proj|c_fc)$")
#: Those of them that have more outputs than inputs.
_WIDENING = re.compile(r"(^|\.)(c_attn|c_fc)$")
_TRANSPOSED = re.compile(r"transpose|deconv", re.IGNORECASE)
_BILINEAR = re.compile(r"bilinear", re.IGNORECASE)
#: The least length of a kernel that is taken for the second input of a bilinear map.
_LONG = 32
#: A matrix with so many times more rows than columns is tall enough for a look-up table.
_TALL = 4


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles of a checkpoint's matrices.

    Attributes:
        checkpoint: the network.
        reading: how many matrices read inputs of each width.
        experts: how many experts there are below each module that has some.
        in_out: families of modules of which one is known to be stored as in × out.
        last: the module of the last floating-point matrix that is a weight.
    """

    checkpoint: Checkpoint
    reading: Mapping[int, int]
    experts: Mapping[str, int]
    in_out: frozenset[str]
    last: str

    @staticmethod
    def of(checkpoint: Checkpoint) -> Roles:
        """Collect the evidence that one tensor gives about another."""
        deep = {name: info for name, info in checkpoint.infos.items() if len(info.shape) >= 2}
        modules = {
            module_of(name): info
            for name, info in deep.items()
            if name.rpartition(".")[2] == "weight" and info.dtype in FLOATS
        }
        matrices = [module for module, info in modules.items() if len(info.shape) == 2]
        shown = (module for module, info in modules.items() if in_out(checkpoint, module, info))
        return Roles(
            checkpoint,
            Counter(width for name in deep for width in _widths(checkpoint, name)),
            _experts(deep),
            frozenset(_family(module) for module in shown),
            matrices[-1] if matrices else "",
        )

    def is_head(self, name: str, outputs: int) -> bool:
        """Whether a weight's name, or its outputs, say that it is an output head."""
        module = plain(module_of(name))
        return _HEAD.search(module) is not None or self._is_vocabulary(module, outputs)

    def is_embedding(self, module: str, rows: int) -> bool:
        """Whether the name or the rows of a module without bias say that it is an embedding."""
        name = plain(module)
        if _EMBEDDING.search(name):
            return True
        return self._is_vocabulary(name, rows) and not _HEAD.search(name)

    def _is_vocabulary(self, module: str, rows: int) -> bool:
        """Whether a matrix has one row per entry of a vocabulary.

        The number alone says nothing about a matrix in one of the network's blocks, nor where it
        is a width of the network, which other matrices read.
        """
        if rows not in self.checkpoint.about.vocabularies or rows in self.reading:
            return False
        return not _NUMBERED.search(module)

    def is_table(self, module: str, info: TensorInfo) -> bool:
        """Whether a matrix without bias is a look-up table by its shape, where no name tells.

        It is tall, no matrix reads its outputs, others read its columns, it is not in a block, and
        it is not the last one of a file that keeps the order.
        """
        rows, width = info.shape
        name = plain(module)
        if self.checkpoint.about.linear_only or _NUMBERED.search(name) or _HEAD.search(name):
            return False
        read = {rows, rows / 2} & self.reading.keys()  # by half: a gate takes the other half
        if rows < _TALL * width or read or self.reading[width] < 2:
            return False
        return not (self.checkpoint.as_stored and module == self.last)

    def is_router(self, module: str, outputs: int) -> bool:
        """Whether a module chooses among experts: by its name, or by one output for each."""
        name = plain(module)
        if _ROUTER.search(name):
            return True
        parent, _, last = name.rpartition(".")
        if parent in self.experts and (last in _GATES or outputs == self.experts[parent] > 1):
            return True
        above, _, last = parent.rpartition(".")
        return last in _GATES and above in self.experts

    def stored_in_out(self, module: str, info: TensorInfo) -> bool:
        """Whether a weight is stored as in × out, by its own bias or else by its siblings'."""
        own = in_out(self.checkpoint, module, info)
        return _family(module) in self.in_out if own is None else own


def in_out(checkpoint: Checkpoint, module: str, info: TensorInfo) -> bool | None:
    """Whether a weight's bias or name shows that it is stored as in × out; None if nothing does."""
    name, (rows, columns) = plain(module), info.shape[:2]
    if name.rpartition(".")[2] in checkpoint.about.transposed:
        return None
    if len(info.shape) > 2 and _TRANSPOSED.search(name):
        return True
    if rows == columns:
        return None
    bias = checkpoint.infos.get(member(module, "bias"))
    if bias is not None and bias.shape in ((rows,), (columns,)):
        return bias.shape == (columns,)
    norm = None if bias is not None else _norm_after(checkpoint, module)
    if len(info.shape) > 2 and norm in (rows, columns):
        return norm == columns
    return rows < columns if _WIDENING.search(name) and len(info.shape) == 2 else None


def is_bilinear(module: str, info: TensorInfo) -> bool:
    """Whether a weight of three dimensions is out × in × in: by its name, or too long a kernel.

    A kernel of any length is one where the name says so.
    """
    long = len(info.shape) == 3 and info.shape[2] >= _LONG and "conv" not in module.lower()
    return _BILINEAR.search(module) is not None or long


def _norm_after(checkpoint: Checkpoint, module: str) -> int | None:
    """The number of channels of the norm that follows a convolution in a numbered series."""
    parent, _, number = module.rpartition(".")
    if not number.isdecimal():
        return None
    norm = checkpoint.infos.get(f"{member(parent, str(int(number) + 1))}.weight")
    return norm.shape[0] if norm is not None and len(norm.shape) == 1 else None


def _family(module: str) -> str:
    """A name that layers of one kind have in common: numbers do not count."""
    name = plain(module)
    return "Conv1D" if _CONV1D.search(name) else re.sub(r"\d+", "#", name)


def _widths(checkpoint: Checkpoint, name: str) -> Iterator[int]:
    """The widths of inputs that a tensor reads; of a stack, which may be either way, both."""
    shape = checkpoint.infos[name].shape
    if len(shape) == 3:
        yield from {shape[1], shape[2]}
    else:
        turns = plain(module_of(name)).rpartition(".")[2] in checkpoint.about.transposed
        yield shape[0] if turns else shape[1]


def _experts(deep: Mapping[str, TensorInfo]) -> dict[str, int]:
    """How many experts there are below each module that has some."""
    counts: dict[str, int] = {}
    for name, info in deep.items():
        match = _EXPERTS.match(plain(name))
        if match is None:
            continue
        parent, number = match[1] or "", match[2]
        stacked = info.shape[0] if len(info.shape) == 3 else 0
        count = stacked if number is None else int(number) + 1
        counts[parent] = max(count, counts.get(parent, 0))
    return counts
