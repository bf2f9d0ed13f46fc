"""An optimizer's memory of a parameter, carried over to what takes the parameter's place.

Where a parameter W becomes new ones, the gradient of each new one is a linear map of W's:
W = A·B gives ∂A = G·Bᵀ and ∂B = Aᵀ·G. Whatever an optimizer averages over gradients goes the same
way. Averages of squared gradients go through the squared maps, which is their expectation for
entries that are independent.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

#: State that is linear in the gradients, and state that is quadratic, by torch's names.
_LINEAR = ("momentum_buffer", "exp_avg", "grad_avg")
_SQUARE = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")


@dataclass(frozen=True, slots=True, eq=False)
class Heir:
    """A new parameter whose gradient is left · G · right, G that of the old one.

    Attributes:
        parameter: the new parameter.
        left: shape (new rows, old rows), or None for the identity.
        right: shape (old columns, new columns), or None for the identity.
    """

    parameter: nn.Parameter
    left: Tensor | None = None
    right: Tensor | None = None

    def map(self, gradient: Tensor, *, squared: bool = False) -> Tensor:
        """What the old parameter's gradient, or its square, is for the new one."""
        for side, matrix in (("left", self.left), ("right", self.right)):
            if matrix is not None:
                m = (matrix.square() if squared else matrix).to(gradient)
                gradient = m @ gradient if side == "left" else gradient @ m
        return gradient.clone()


@torch.no_grad()
def carry(optimizer: Optimizer, old: nn.Parameter, heirs: Sequence[Heir]) -> None:
    """Put new parameters into the place of an old one, with its state and pending gradient.

    State that torch's optimizers are not known to keep is dropped, with a warning.

    Args:
        optimizer: any torch optimizer that holds ``old``; its groups stay the same objects, so
            that schedulers go on.
        old: the parameter that goes.
        heirs: the parameters that come.
    """
    for group in optimizer.param_groups:
        group["params"] = [
            parameter
            for held in group["params"]
            for parameter in ([h.parameter for h in heirs] if held is old else [held])
        ]
    state = optimizer.state.pop(old, {})
    unknown = [k for k, v in state.items() if _of(v, old) and k not in (*_LINEAR, *_SQUARE)]
    if unknown:
        warnings.warn(
            f"{type(optimizer).__name__} keeps {', '.join(unknown)}, which cannot be carried over "
            "to factors: its state for them starts anew",
            stacklevel=2,
        )
        state = {}
    for heir in heirs:
        if old.grad is not None:
            heir.parameter.grad = heir.map(old.grad)
        if state:
            optimizer.state[heir.parameter] = {
                k: _carried(k, v, old, heir) for k, v in state.items()
            }


def _of(value: Any, parameter: nn.Parameter) -> bool:
    """Whether a piece of state belongs to the parameter's entries."""
    return isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim > 0


def _carried(name: str, value: Any, old: nn.Parameter, heir: Heir) -> Any:
    if _of(value, old):
        return heir.map(value, squared=name in _SQUARE)
    return value.clone() if isinstance(value, Tensor) else value
