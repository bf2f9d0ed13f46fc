"""Compress pretrained networks with random matrix theory.

>>> import rmtcli
>>> report = rmtcli.prune("model.safetensors", "small.safetensors")  # doctest: +SKIP
>>> model = rmtcli.load(model, "small.safetensors")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rmtcli.version import __version__

if TYPE_CHECKING:
    from rmtcli.calibration import Calibration
    from rmtcli.errors import RmtcliError
    from rmtcli.evaluation import Evaluation
    from rmtcli.layers import Selection
    from rmtcli.layouts.module import load
    from rmtcli.pipeline.analyze import analyze
    from rmtcli.pipeline.compress import compress, compress_
    from rmtcli.pipeline.curve import curve
    from rmtcli.pipeline.densify import densify
    from rmtcli.pipeline.diff import diff
    from rmtcli.pipeline.evaluate import evaluate
    from rmtcli.pipeline.extract import extract
    from rmtcli.pipeline.finetune import finetune
    from rmtcli.pipeline.info import info
    from rmtcli.pipeline.merge import merge
    from rmtcli.pipeline.prune import prune
    from rmtcli.pipeline.repair import repair
    from rmtcli.pipeline.reproduce import reproduce
    from rmtcli.pipeline.resize import resize
    from rmtcli.pipeline.save import save
    from rmtcli.pipeline.simulate import simulate
    from rmtcli.pipeline.verify import verify
    from rmtcli.planning import Budget, Plan

__all__ = [
    "Budget",
    "Calibration",
    "Evaluation",
    "Plan",
    "RmtcliError",
    "Selection",
    "__version__",
    "analyze",
    "compress",
    "compress_",
    "curve",
    "densify",
    "diff",
    "evaluate",
    "extract",
    "finetune",
    "info",
    "load",
    "merge",
    "prune",
    "repair",
    "reproduce",
    "resize",
    "save",
    "simulate",
    "verify",
]

#: Where each public name lives. They are imported when first used, because torch takes
#: seconds to import and ``rmtcli --help`` needs none of it.
_HOMES = {
    "Budget": "rmtcli.planning",
    "Calibration": "rmtcli.calibration",
    "Evaluation": "rmtcli.evaluation",
    "Plan": "rmtcli.planning",
    "RmtcliError": "rmtcli.errors",
    "Selection": "rmtcli.layers",
    "analyze": "rmtcli.pipeline.analyze",
    "compress": "rmtcli.pipeline.compress",
    "compress_": "rmtcli.pipeline.compress",
    "curve": "rmtcli.pipeline.curve",
    "densify": "rmtcli.pipeline.densify",
    "diff": "rmtcli.pipeline.diff",
    "evaluate": "rmtcli.pipeline.evaluate",
    "extract": "rmtcli.pipeline.extract",
    "finetune": "rmtcli.pipeline.finetune",
    "info": "rmtcli.pipeline.info",
    "load": "rmtcli.layouts.module",
    "merge": "rmtcli.pipeline.merge",
    "prune": "rmtcli.pipeline.prune",
    "reproduce": "rmtcli.pipeline.reproduce",
    "repair": "rmtcli.pipeline.repair",
    "resize": "rmtcli.pipeline.resize",
    "save": "rmtcli.pipeline.save",
    "simulate": "rmtcli.pipeline.simulate",
    "verify": "rmtcli.pipeline.verify",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rmtcli' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
