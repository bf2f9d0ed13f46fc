"""Carrying an optimizer's state over from a parameter to the parameters that replace it.

When a parameter W with gradient G is replaced, the gradient of each new parameter is a linear map
of G: W = A·B gives ∂A = G·Bᵀ and ∂B = Aᵀ·G. An optimizer's averages of gradients are mapped in this
way too. Averages of squared gradients are mapped by the squared matrices, which gives their
expectation if the entries are independent.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

#: torch's names of optimizer state that is linear in the gradients, and of state that is quadratic.
_LINEAR = ("momentum_buffer", "exp_avg", "grad_avg")
_SQUARE = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")


@dataclass(frozen=True, slots=True, eq=False)
class Heir:
    """A new parameter with the gradient left · G · right, where G is the old parameter's gradient.

    Attributes:
        parameter: the new parameter.
        left: shape (new rows, old rows), or None for the identity.
        right: shape (old columns, new columns), or None for the identity.
    """

    parameter: nn.Parameter
    left: Tensor | None = None
    right: Tensor | None = None

    def map(self, gradient: Tensor, *, squared: bool = False) -> Tensor:
        """Map a gradient of the old parameter, or its square, to the new one."""
        for side, matrix in (("left", self.left), ("right", self.right)):
            if matrix is not None:
                m = (matrix.square() if squared else matrix).to(gradient)
                gradient = m @ gradient if side == "left" else gradient @ m
        return gradient.clone()


@torch.no_grad()
def carry(optimizer: Optimizer, old: nn.Parameter, heirs: Sequence[Heir]) -> None:
    """Replace a parameter in its optimizer, and carry over its state and pending gradient.

    If the optimizer keeps state of an unknown kind, all state of the parameter is dropped, with a
    warning.

    Args:
        optimizer: any torch optimizer that holds ``old``; its groups stay the same objects, so that
            schedulers keep working.
        old: the parameter to replace.
        heirs: the parameters that replace it.
    """
    for group in optimizer.param_groups:
        group["params"] = [
            parameter
            for held in group["params"]
            for parameter in ([h.parameter for h in heirs] if held is old else [held])
        ]
    state = optimizer.state.pop(old, {})
    unknown = [k for k, v in state.items() if _per_entry(v, old) and k not in (*_LINEAR, *_SQUARE)]
    if unknown:
        warnings.warn(
            f"{type(optimizer).__name__} keeps {', '.join(unknown)}, which cannot be carried over "
            "to factors: its state for them is reset",
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


def _per_entry(value: Any, parameter: nn.Parameter) -> bool:
    """Whether a piece of state has one value per entry of the parameter."""
    return isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim > 0


def _carried(name: str, value: Any, old: nn.Parameter, heir: Heir) -> Any:
    """Return a piece of state for the new parameter; state of other shapes is copied."""
    if _per_entry(value, old):
        return heir.map(value, squared=name in _SQUARE)
    return value.clone() if isinstance(value, Tensor) else value
