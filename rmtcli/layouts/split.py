"""Torch modules of the factored layout: two in place of one."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn


class SplitLinear(nn.Sequential):
    """Two linear maps in place of one, with the parameter names of a plain ``nn.Sequential``.

    Modules that read a layer's weight instead of calling the layer (attention, fused encoders) get
    the product of the factors. It is computed at each access, so such modules do not get faster.
    """

    def __init__(self, layer: nn.Linear, rank: int, *, bias: bool) -> None:
        weight = layer.weight
        options = {"device": weight.device, "dtype": weight.dtype}
        right = nn.Linear(layer.in_features, rank, bias=False, **options)
        left = nn.Linear(rank, layer.out_features, bias=bias, **options)
        super().__init__(right, left)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.train(layer.training)

    @property
    def right(self) -> nn.Linear:
        """The first map, to ``rank`` values."""
        return cast(nn.Linear, self[0])

    @property
    def left(self) -> nn.Linear:
        """The second map, with the bias."""
        return cast(nn.Linear, self[1])

    @property
    def weight(self) -> Tensor:
        """The product of the factors, shape (out, in)."""
        return self.left.weight @ self.right.weight

    @property
    def bias(self) -> Tensor | None:
        """The bias of the second map."""
        return self.left.bias


class SplitConvolution(nn.Sequential):
    """A convolution with the layer's kernel to ``rank`` channels, and one with kernel size 1."""

    def __init__(self, module: nn.Conv1d | nn.Conv2d | nn.Conv3d, rank: int, *, bias: bool) -> None:
        kind = next(kind for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(module, kind))
        options: dict[str, Any] = {"device": module.weight.device, "dtype": module.weight.dtype}
        first = kind(
            module.in_channels,
            rank,
            cast(Any, module.kernel_size),
            stride=cast(Any, module.stride),
            padding=cast(Any, module.padding),
            dilation=cast(Any, module.dilation),
            padding_mode=module.padding_mode,
            bias=False,
            **options,
        )
        super().__init__(first, kind(rank, module.out_channels, 1, bias=bias, **options))
        self.train(module.training)

    @property
    def right(self) -> nn.Module:
        """The first convolution, to ``rank`` channels."""
        return self[0]

    @property
    def left(self) -> nn.Module:
        """The second convolution, with the bias."""
        return self[1]


def own_part(module: nn.Module) -> str:
    """What two modules in place of a linear layer or convolution would lose; empty if nothing."""
    if _has_own_forward(module):
        return "a forward of its own"
    return "other parameters" if module.state_dict().keys() - {"weight", "bias"} else ""


def _has_own_forward(module: nn.Module) -> bool:
    """Whether a linear layer or convolution computes anything but what torch's class computes."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    kind = next((kind for kind in kinds if isinstance(module, kind)), type(module))
    names = ("forward", "_conv_forward")
    return any(getattr(type(module), name, None) is not getattr(kind, name, None) for name in names)


def split_module(module: nn.Module, rank: int, *, bias: bool) -> nn.Module | None:
    """Two modules of this rank that can replace one; None if it cannot be replaced."""
    if own_part(module):
        return None
    if isinstance(module, nn.Linear):
        return SplitLinear(module, rank, bias=bias)
    if type(module).__name__ == "Conv1D" and cast(Tensor, module.weight).ndim == 2:
        inputs, outputs = cast(Tensor, module.weight).shape  # transformers': stored as in × out
        dtype = cast(Tensor, module.weight).dtype
        linear = nn.Linear(inputs, outputs, bias=bias, device="meta", dtype=dtype)
        made = SplitLinear(linear, rank, bias=bias)
        return made.to_empty(device=cast(Tensor, module.weight).device).train(module.training)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups == 1:
        return SplitConvolution(module, rank, bias=bias)
    return None
