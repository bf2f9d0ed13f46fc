"""Gradients where the caller has switched them off."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def outside_inference_mode(function: Callable[P, T]) -> Callable[P, T]:
    """The function, which leaves ``torch.inference_mode`` while it runs.

    Calibration and healing need gradients, and tensors that are made in that mode never have any:
    a network that was compressed in it could not be trained further either.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        torch = sys.modules.get("torch")  # no mode is on before torch is imported
        if torch is None or not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(mode=False):
            return function(*args, **kwargs)

    return run
