"""Parameter names and the modules they belong to: the only place that joins and splits them."""

from __future__ import annotations


def module_of(name: str) -> str:
    """The module that a parameter belongs to: its name without the last part, perhaps empty."""
    return name.rpartition(".")[0]


def member(module: str, leaf: str) -> str:
    """The name of a module's parameter; the module ``""`` is the whole network."""
    return f"{module}.{leaf}" if module else leaf


def factors_of(module: str) -> tuple[str, str, str]:
    """Names of a split layer's right factor, left factor and bias.

    They are those of ``nn.Sequential(nn.Linear(…, bias=False), nn.Linear(…))`` in its place.
    """
    return member(module, "0.weight"), member(module, "1.weight"), member(module, "1.bias")
