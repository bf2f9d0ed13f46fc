"""Random values from which backward passes start, with the Fisher matrix of some outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

#: Number of scores that are computed on together.
SLICE = 2**22


def identity_root(outputs: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal values of the outputs' shape, for outputs whose loss is a squared error."""
    return torch.randn(outputs.shape, generator=generator).to(outputs)


def label_root(scores: Tensor, generator: torch.Generator) -> Tensor:
    """Random v with independent entries of variance p (1 − p), where p is the sigmoid of a score.

    This is the Fisher matrix of the scores of independent labels.
    """
    p = scores.double().sigmoid()
    z = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.device)
    return ((p * (1 - p)).sqrt() * z).to(scores.dtype)


def softmax_root(scores: Tensor, generator: torch.Generator) -> Tensor:
    """Random v with covariance diag(p) − p pᵀ, where p is the softmax of the scores.

    This is the Fisher matrix of class scores: v = √p ∘ z − p (√p · z), with z standard normal.
    """
    values = torch.empty_like(scores)
    for some, part in zip(_slices(scores), _slices(values), strict=True):
        p = some.double().softmax(1)
        z = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.device)
        rooted = p.sqrt() * z
        part.copy_(rooted - p * rooted.sum(1, keepdim=True))
    return values


def _slices(x: Tensor) -> Sequence[Tensor]:
    """Groups of rows: the scores of a language model in float64 take much memory.

    A multiple of 16 rows, in which torch draws normal values, makes the values independent of the
    groups.
    """
    rows = max(16, SLICE // max(1, x[:1].numel()) // 16 * 16)
    ends = range(rows, len(x) - 15, rows)  # the last group has 16 rows at least
    return x.tensor_split(list(ends))


class _Start(torch.autograd.Function):
    """A scalar whose gradient by a tensor is a given value."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return outputs.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.saved_tensors[0], None


def run_back(outputs: Sequence[Tensor], values: Sequence[Tensor], *, retain_graph: bool) -> None:
    """Run a backward pass that starts from given gradients of the outputs.

    Equivalent to ``torch.autograd.backward(outputs, values, retain_graph=retain_graph)``, which
    imports SymPy to compare the shapes, and takes a second for that.

    Args:
        outputs: tensors that require gradients.
        values: the gradient of each of them, of its shape.
        retain_graph: whether another pass follows.
    """
    with torch.enable_grad():
        pairs = zip(outputs, values, strict=True)
        ends = [_Start.apply(x, v) for x, v in pairs]  # type: ignore[no-untyped-call]
    torch.autograd.backward(ends, retain_graph=retain_graph)
