"""The torch module of the pivoted layout: pivot rows, and the other rows from their outputs."""

from __future__ import annotations

from typing import TypeGuard, cast

import torch
from torch import Tensor, nn

from rmtcli.layouts.split import SplitLinear, as_linear, convolutions, is_plain_convolution


class PivotedModule(nn.Module):
    """Pivot rows and combinations of them in place of a linear layer or a convolution.

    Modules that read a layer's weight instead of calling the layer (attention, fused encoders) get
    the whole weight. It is computed at each access, so such modules do not get faster.

    Args:
        pivot: maps inputs to the outputs of the pivot rows.
        rest: maps these to the other outputs, of which there may be none.
        outputs: number of outputs.
        bias: whether the layer has a bias.

    Attributes:
        order: shape (out,), int32: the position of each output among those of ``pivot`` followed
            by those of ``rest``.
    """

    order: Tensor

    def __init__(self, pivot: nn.Module, rest: nn.Module, outputs: int, *, bias: bool) -> None:
        super().__init__()
        weight = cast(Tensor, pivot.weight)
        self.pivot, self.rest = pivot, rest
        self.register_buffer("order", torch.arange(outputs, dtype=torch.int32).to(weight.device))
        self.bias = nn.Parameter(weight.new_empty(outputs)) if bias else None
        self._kernel = weight.ndim - 2
        self._all_pivots = len(cast(Tensor, rest.weight)) == 0

    def forward(self, inputs: Tensor) -> Tensor:
        """The outputs of the pivot rows and of the rest in the layer's order, plus the bias."""
        axis, core = -1 - self._kernel, self.pivot(inputs)
        if not self._all_pivots:
            core = torch.cat((core, self.rest(core)), axis)
        # torch orders the columns of a matrix many times faster than those of more dimensions.
        sides = core.shape[:-1]
        rows: Tensor = core if self._kernel else core.reshape(-1, core.shape[-1])
        outputs = rows.index_select(axis, self.order)
        if (bias := self.bias) is not None:
            # The outputs are a copy of their own, and no gradient needs them: one pass less.
            outputs = outputs.add_(bias.view(-1, *[1] * self._kernel) if self._kernel else bias)
        return outputs if self._kernel else outputs.view(*sides, outputs.shape[-1])

    @property
    def in_features(self) -> int:
        """Number of inputs of a linear layer."""
        return cast(Tensor, self.pivot.weight).shape[1]

    @property
    def out_features(self) -> int:
        """Number of outputs."""
        return len(self.order)

    @property
    def weight(self) -> Tensor:
        """The layer's weight: shape (out, in), or a convolution's kernels."""
        core, rest = (cast(Tensor, part.weight) for part in (self.pivot, self.rest))
        rows = torch.cat([core, (rest.flatten(1) @ core.flatten(1)).view(-1, *core.shape[1:])])
        return rows.index_select(0, self.order)


def is_linear(module: nn.Module) -> TypeGuard[nn.Linear | SplitLinear | PivotedModule]:
    """Whether a module is a linear layer, in any layout."""
    if isinstance(module, PivotedModule):
        return cast(Tensor, module.pivot.weight).ndim == 2
    return isinstance(module, nn.Linear | SplitLinear)


def pivoted_module(
    module: nn.Module,
    core: int,
    rest: int,
    *,
    bias: bool,
    shape: tuple[int, int] | None = None,
) -> PivotedModule | None:
    """A pivoted module that can replace a layer; None if it cannot be replaced.

    Args:
        module: the layer.
        core: number of pivot rows.
        rest: number of other rows that the module computes itself.
        bias: whether the layer has a bias.
        shape: (out, in) of a linear layer beside a narrower hidden layer; None for the module's.
    """
    linear = as_linear(module, shape)
    if linear is not None:
        options = {"device": linear.weight.device, "dtype": linear.weight.dtype}
        pivot: nn.Module = nn.Linear(linear.in_features, core, bias=False, **options)
        other: nn.Module = nn.Linear(core, max(rest, 1), bias=False, **options)
        outputs = linear.out_features
    elif is_plain_convolution(module):
        pivot, other = convolutions(module, core, max(rest, 1), bias=False)
        outputs = module.out_channels
    else:
        return None
    if rest == 0:  # all outputs are pivot rows, of siblings too
        other.weight = nn.Parameter(cast(Tensor, other.weight)[:0])
    return PivotedModule(pivot, other, outputs, bias=bias).train(module.training)
