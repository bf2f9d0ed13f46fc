"""Compress pretrained networks with random matrix theory.

>>> import rmtcli
>>> report = rmtcli.prune("model.safetensors", "small.safetensors")  # doctest: +SKIP
>>> model = rmtcli.load(model, "small.safetensors")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rmtcli.version import __version__

if TYPE_CHECKING:
    from rmtcli.calibration.base import Calibration
    from rmtcli.evaluation.base import Evaluation
    from rmtcli.layers import Selection
    from rmtcli.lowrank import load
    from rmtcli.pipeline import analyze, densify, evaluate, prune

__all__ = [
    "Calibration",
    "Evaluation",
    "Selection",
    "__version__",
    "analyze",
    "densify",
    "evaluate",
    "load",
    "prune",
]

#: Where each public name lives. They are imported when first used, because torch takes
#: seconds to import and ``rmtcli --help`` needs none of it.
_HOMES = {
    "Calibration": "rmtcli.calibration.base",
    "Evaluation": "rmtcli.evaluation.base",
    "Selection": "rmtcli.layers",
    "analyze": "rmtcli.pipeline",
    "densify": "rmtcli.pipeline",
    "evaluate": "rmtcli.pipeline",
    "load": "rmtcli.lowrank",
    "prune": "rmtcli.pipeline",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rmtcli' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
