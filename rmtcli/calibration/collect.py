"""Streaming moments through the hooks of a torch module."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rmtcli.calibration.moments import Moments

Array = NDArray[np.float64]


@dataclass
class _Inputs:
    """Running sums over the tensors that one group of layers reads."""

    rows: int = 0
    total: Array = field(default_factory=lambda: np.zeros(()))
    outer: Array = field(default_factory=lambda: np.zeros(()))

    @cached_property
    def averages(self) -> tuple[Array, Array]:
        """E[x] and E[x xᵀ], computed once for all layers of the group; the sums are let go."""
        found = self.total / self.rows, self.outer / self.rows
        self.total = self.outer = np.zeros(())
        return found


@dataclass
class _Watch:
    """What the hooks write down."""

    #: The tensors read in this batch, and by whom. They are held, so that an id stays theirs.
    read: dict[int, tuple[Tensor, list[str]]] = field(default_factory=dict)
    #: Which positions of the batch count; None for all.
    mask: Callable[[], Tensor | None] = lambda: None
    inputs: dict[tuple[str, ...], _Inputs] = field(default_factory=dict)
    gradients: dict[str, Array] = field(default_factory=dict)

    def add_inputs(self) -> None:
        """Take in the tensors of a batch, each once however many layers read it."""
        for source, readers in self.read.values():
            x = rows_of(source.detach(), self.mask()).double()
            sums = self.inputs.setdefault(tuple(readers), _Inputs())
            sums.rows += len(x)
            sums.total = sums.total + x.sum(0).cpu().numpy()
            sums.outer = sums.outer + (x.T @ x).cpu().numpy()
        self.read.clear()

    def add_gradient(self, name: str, gradient: Tensor) -> None:
        """Take in the output gradients of one layer."""
        g = rows_of(gradient.detach(), self.mask()).double()
        self.gradients[name] = self.gradients.get(name, 0.0) + (g.T @ g).cpu().numpy()

    def moments(self, name: str, samples: int) -> Moments | None:
        """One layer's moments, from every group that it is in; None if nothing reached it."""
        own = [(group.count(name), sums) for group, sums in self.inputs.items() if name in group]
        rows = sum(times * sums.rows for times, sums in own)
        if not rows:
            return None
        if len(own) == 1:  # layers that read the same tensors hold the same arrays
            mean, second = own[0][1].averages
        else:
            shares = [times * sums.rows / rows for times, sums in own]
            averages = [sums.averages for _, sums in own]
            mean = np.asarray(sum(s * a for s, (a, _) in zip(shares, averages, strict=True)))
            second = np.asarray(sum(s * b for s, (_, b) in zip(shares, averages, strict=True)))
        gradient = self.gradients.get(name)
        return Moments(rows, samples, mean, second, None if gradient is None else gradient / rows)


def rows_of(values: Tensor, mask: Tensor | None) -> Tensor:
    """The rows that count, shape (rows, width).

    Args:
        values: shape (…, width).
        mask: shape (samples, positions), which positions hold tokens and not padding; None for
            all. Values of other positions than these are all taken.
    """
    if mask is not None and values.shape[:-1] == mask.shape:
        return values[mask]
    if mask is not None and values.ndim == 2 and len(values) == mask.numel():
        return values[mask.flatten()]
    return values.flatten(0, -2)


def collect(
    model: nn.Module,
    inputs: NDArray[Any],
    layers: Collection[str],
    run: Callable[[nn.Module, Tensor], Tensor],
    *,
    batch: int = 256,
    gradients: bool = True,
    vectors: bool = False,
    mask: Callable[[], Tensor | None] = lambda: None,
    seed: int = 0,
) -> dict[str, Moments]:
    """Moments of the inputs and output gradients of linear layers.

    One pass forward, and backward where gradients are asked for. The backward pass starts from
    v = √p ∘ z − p (√p · z) with p the network's own class probabilities and z standard normal: its
    covariance is diag(p) − p pᵀ, the Fisher matrix of the logits, as for labels drawn from the
    model's own output (Martens and Grosse, 2015, section 5) but with less variance where the
    network is sure. No labels are needed. Where outputs are vectors, v is z itself: the loss is
    then their squared error.

    Memory: the activations of one batch, and in² + out² float64 values a layer; layers that read
    the same tensor (query, key and value) store its moments once.

    Args:
        model: in evaluation mode, on its device.
        inputs: shape (samples, …).
        layers: module names of the ``nn.Linear`` to watch.
        run: gives a network's outputs, shape (rows, width).
        batch: samples that run at a time.
        gradients: whether to collect output gradients.
        vectors: whether the outputs are vectors and not class scores.
        mask: gives, once a batch has run, which of its positions count; None for all.
        seed: of the normal draws.

    Returns:
        Moments by module name; a layer that no input reached is missing.

    """
    watch = _Watch(mask=mask)
    cotangent = _normal if vectors else _fisher_root
    hooks = [
        model.get_submodule(name).register_forward_hook(_hook(name, watch, gradients))
        for name in layers
    ]
    generator = torch.Generator().manual_seed(seed)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)  # only gradients of outputs are wanted
    try:
        for start in range(0, len(inputs), batch):
            chunk = torch.from_numpy(np.array(inputs[start : start + batch]))
            with torch.set_grad_enabled(gradients):
                outputs = run(model, chunk)
            watch.add_inputs()
            if gradients and outputs.requires_grad:
                torch.autograd.backward(outputs, cotangent(outputs.detach(), generator))
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in trained:
            parameter.requires_grad_(True)
    found = {name: watch.moments(name, len(inputs)) for name in layers}
    return {name: moments for name, moments in found.items() if moments is not None}


def _hook(name: str, watch: _Watch, gradients: bool) -> Any:
    """A forward hook that notes one layer's input, and the gradient of its output to come."""

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        watch.read.setdefault(id(args[0]), (args[0], []))[1].append(name)
        if gradients:
            # Parameters ask for no gradient, so the first layer's output starts the graph.
            if not output.requires_grad:
                output.requires_grad_(True)
            output.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: watch.add_gradient(name, gradient)
            )

    return hook


def _normal(outputs: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal values in the outputs' shape."""
    return torch.randn(outputs.shape, generator=generator).to(outputs)


def _fisher_root(logits: Tensor, generator: torch.Generator) -> Tensor:
    """A random v with covariance diag(p) − p pᵀ, p the softmax of the logits."""
    p = logits.double().softmax(1)
    z = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.device)
    rooted = p.sqrt() * z
    return (rooted - p * rooted.sum(1, keepdim=True)).to(logits.dtype)
