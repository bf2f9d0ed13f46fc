"""Parameter names: only this module joins and splits them."""

from __future__ import annotations

import re


def module_of(name: str) -> str:
    """The name of a parameter's module: all but the last part, which may leave it empty."""
    return name.rpartition(".")[0]


def member(module: str, leaf: str) -> str:
    """The name of a module's parameter; the module named ``""`` is the whole network."""
    return f"{module}.{leaf}" if module else leaf


#: The matrices of a recurrent layer, or of a cell of one, and their biases, as torch names them:
#: of the inputs, of the states, and of an LSTM's projection.
_RECURRENT = re.compile(r"(weight|bias)_(ih|hh|hr)(_l\d+(_reverse)?)?")


def is_recurrent(name: str) -> bool:
    """Whether a name is that of a recurrent layer's matrix or bias."""
    return _RECURRENT.fullmatch(name.rpartition(".")[2]) is not None


def unit_of(name: str) -> str:
    """The name of what holds a weight or a bias, and is replaced with it.

    It is the module, such as ``fc`` for ``fc.weight`` and ``fc.bias``. The matrices of a recurrent
    layer have one module; each is a unit by itself, with the name of its weight.
    """
    if not is_recurrent(name):
        return module_of(name)
    return member(module_of(name), f"weight_{name.rpartition('.')[2].partition('_')[2]}")


def weight_of(unit: str) -> str:
    """The name of a unit's weight."""
    return unit if is_recurrent(unit) else member(unit, "weight")


def bias_of(weight: str) -> str:
    """The name of the bias that belongs to a weight."""
    if not is_recurrent(weight):
        return member(module_of(weight), "bias")
    return member(module_of(weight), f"bias_{weight.rpartition('.')[2].partition('_')[2]}")


def factors_of(unit: str) -> tuple[str, str, str]:
    """Names of a factored layer's right factor, left factor and bias.

    They are the parameters of ``nn.Sequential(nn.Linear(…, bias=False), nn.Linear(…))`` under the
    unit's name: ``fc.0.weight``, or ``lstm.weight_ih_l0.0.weight``.
    """
    return member(unit, "0.weight"), member(unit, "1.weight"), member(unit, "1.bias")


def pivots_of(module: str) -> tuple[str, str, str]:
    """Names of a pivoted layer's core, coefficients and order of outputs; its bias keeps its name.

    No other layout has these names, so that a program that does not know this layout cannot take
    its tensors for factors.
    """
    return member(module, "pivot.weight"), member(module, "rest.weight"), member(module, "order")


def parts_of(unit: str, *, pivoted: bool) -> tuple[str, str, str]:
    """Names of a split layer's tensors, right factor or pivot rows first, in its layout."""
    return (pivots_of if pivoted else factors_of)(unit)


#: Modules that torch.compile, DataParallel, FSDP and activation checkpointing put around others.
_WRAPPERS = frozenset(
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module"}
)


def plain(name: str) -> str:
    """A name without the parts that wrappers around the network, or inside it, add."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
