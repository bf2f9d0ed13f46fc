"""Moments of layers, summed batch by batch through the hooks of a torch module."""

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
from rmtcli.computing.steps import tracked

Array = NDArray[np.float64]

#: Seed of the normal draws from which backward passes start: a calibration can be repeated.
_SEED = 0


@dataclass
class _Inputs:
    """Running sums over the tensors that one group of layers reads."""

    rows: int = 0
    total: Array = field(default_factory=lambda: np.zeros(()))
    outer: Array = field(default_factory=lambda: np.zeros(()))

    @cached_property
    def averages(self) -> tuple[Array, Array]:
        """E[x] and E[x xᵀ], computed once for all layers of the group; frees the sums."""
        averages = self.total / self.rows, self.outer / self.rows
        self.total = self.outer = np.zeros(())
        return averages


@dataclass
class _Watch:
    """Everything that the hooks record."""

    #: The tensors read in this batch, by their id, with the layers that read them. Holding the
    #: tensors keeps Python from giving their ids to others.
    read: dict[int, tuple[Tensor, list[str]]] = field(default_factory=dict)
    #: Gives the mask of the batch's positions that count; None for all.
    mask: Callable[[], Tensor | None] = lambda: None
    inputs: dict[tuple[str, ...], _Inputs] = field(default_factory=dict)
    gradients: dict[str, Array] = field(default_factory=dict)

    def add_inputs(self) -> None:
        """Add the tensors of a batch to the sums, each once however many layers read it."""
        for source, readers in self.read.values():
            x = rows_of(source.detach(), self.mask()).double()
            sums = self.inputs.setdefault(tuple(readers), _Inputs())
            sums.rows += len(x)
            sums.total = sums.total + x.sum(0).cpu().numpy()
            sums.outer = sums.outer + (x.T @ x).cpu().numpy()
        self.read.clear()

    def add_gradient(self, name: str, gradient: Tensor) -> None:
        """Add the output gradients of one layer to its sum."""
        g = rows_of(gradient.detach(), self.mask()).double()
        self.gradients[name] = self.gradients.get(name, 0.0) + (g.T @ g).cpu().numpy()

    def moments(self, name: str, samples: int) -> Moments | None:
        """Return one layer's moments, from every group that it is in.

        Args:
            name: the layer's module name.
            samples: number of samples that went through the network.

        Returns:
            The moments, or None for a layer that no input reached.
        """
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
    """Return the rows that count, shape (rows, width).

    Args:
        values: shape (…, width).
        mask: shape (samples, positions), true for positions with tokens and false for padding, or
            None. Where the shapes of values and mask do not fit, all rows count.
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
) -> dict[str, Moments]:
    """Collect the moments of the inputs and output gradients of linear layers.

    The network runs forward, and backward if gradients are asked for. The backward pass starts from
    v = √p ∘ z − p (√p · z) with p the network's own class probabilities and z standard normal. Its
    covariance is diag(p) − p pᵀ, the Fisher matrix of the logits. Labels drawn from the model's own
    output (Martens and Grosse, 2015, section 5) have the same expectation, and more variance where
    the network is sure. No labels are needed. For outputs that are vectors, v is z itself, and the
    loss is their squared error.

    Memory: the activations of one batch, and in² + out² float64 values per layer; layers that read
    the same tensor (query, key and value) store its moments once.

    Args:
        model: the network, in evaluation mode, on its device.
        inputs: shape (samples, …).
        layers: module names of the ``nn.Linear`` layers to watch.
        run: function that gives a network's outputs, shape (rows, width).
        batch: number of samples that run at a time.
        gradients: whether to collect output gradients.
        vectors: whether the outputs are vectors, as opposed to class scores.
        mask: function that gives, after a batch has run, the mask of its positions that count, or
            None for all.

    Returns:
        Moments by module name; a layer that no input reached is missing.
    """
    watch = _Watch(mask=mask)
    cotangent = _normal if vectors else _fisher_root
    hooks = [
        model.get_submodule(name).register_forward_hook(_hook(name, watch, gradients))
        for name in layers
    ]
    generator = torch.Generator().manual_seed(_SEED)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)  # only gradients of outputs are needed
    try:
        for start in tracked(range(0, len(inputs), batch), "calibrating"):
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
    collected = {name: watch.moments(name, len(inputs)) for name in layers}
    return {name: moments for name, moments in collected.items() if moments is not None}


def _hook(name: str, watch: _Watch, gradients: bool) -> Any:
    """Return a forward hook that records a layer's input and, later, its output's gradient."""

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        watch.read.setdefault(id(args[0]), (args[0], []))[1].append(name)
        if gradients:
            # Parameters require no gradient, so that the first layer's output starts the graph.
            if not output.requires_grad:
                output.requires_grad_(True)
            output.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: watch.add_gradient(name, gradient)
            )

    return hook


def _normal(outputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal values of the outputs' shape."""
    return torch.randn(outputs.shape, generator=generator).to(outputs)


def _fisher_root(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Return random v with covariance diag(p) − p pᵀ, where p is the softmax of the logits."""
    p = logits.double().softmax(1)
    z = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.device)
    rooted = p.sqrt() * z
    return (rooted - p * rooted.sum(1, keepdim=True)).to(logits.dtype)
