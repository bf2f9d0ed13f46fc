"""Random values from which backward passes start, with the Fisher matrix of some outputs."""

from __future__ import annotations

import torch
from torch import Tensor


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
    p = scores.double().softmax(1)
    z = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.device)
    rooted = p.sqrt() * z
    return (rooted - p * rooted.sum(1, keepdim=True)).to(scores.dtype)
