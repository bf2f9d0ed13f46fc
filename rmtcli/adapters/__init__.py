"""LoRA adapters: low-rank changes of a network's layers, in files of PEFT and of kohya.

An adapter holds, for each module that it changes, a left factor B (out × r) and a right factor A
(r × in); the module's weight changes by ΔW = scale · B A. :class:`Adapter` says what a file means,
without its format. Tensors are read when they are needed, and those that stay are copied as bytes.
What would be read wrongly is refused in one line: other kinds of adapters, options of PEFT that
change the formula, and factors that do not fit together. Nothing in a file is executed.
"""

from rmtcli.adapters.base import AdaptedLayer, Adapter, Kind, Style
from rmtcli.adapters.files import check_adapter_target, read_adapter, write_adapter
from rmtcli.adapters.peft import CONFIG, WEIGHTS

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "AdaptedLayer",
    "Adapter",
    "Kind",
    "Style",
    "check_adapter_target",
    "read_adapter",
    "write_adapter",
]
