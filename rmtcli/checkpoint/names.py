"""Parameter names: only this module joins and splits them."""

from __future__ import annotations


def module_of(name: str) -> str:
    """The name of a parameter's module: all but the last part, which may leave it empty."""
    return name.rpartition(".")[0]


def member(module: str, leaf: str) -> str:
    """The name of a module's parameter; the module named ``""`` is the whole network."""
    return f"{module}.{leaf}" if module else leaf


def factors_of(module: str) -> tuple[str, str, str]:
    """Names of a factored layer's right factor, left factor and bias.

    They are the parameters of ``nn.Sequential(nn.Linear(…, bias=False), nn.Linear(…))`` under the
    layer's name.
    """
    return member(module, "0.weight"), member(module, "1.weight"), member(module, "1.bias")


def pivots_of(module: str) -> tuple[str, str, str]:
    """Names of a pivoted layer's core, coefficients and order of outputs; its bias keeps its name.

    No other layout has these names, so that a program that does not know this layout cannot take
    its tensors for factors.
    """
    return member(module, "pivot.weight"), member(module, "rest.weight"), member(module, "order")


#: Modules that torch.compile, DataParallel, FSDP and activation checkpointing put around others.
_WRAPPERS = frozenset(
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module"}
)


def plain(name: str) -> str:
    """A name without the parts that wrappers around the network, or inside it, add."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
