"""Torch modules of the factored layout: two in place of one."""

from __future__ import annotations

from typing import Any, TypeGuard, cast

from torch import Tensor, nn

#: A convolution of torch.
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
#: The recurrent layers of torch, and single cells of them.
RECURRENT: tuple[type[nn.Module], ...] = (
    nn.LSTM,
    nn.GRU,
    nn.RNN,
    nn.LSTMCell,
    nn.GRUCell,
    nn.RNNCell,
)

#: Where torch keeps what a user has registered to run with a module.
_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_pre_hooks",
    "_backward_hooks",
)


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

    def __init__(self, module: Convolution, rank: int, *, bias: bool) -> None:
        super().__init__(*convolutions(module, rank, module.out_channels, bias=bias))
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
    """Whether a layer computes anything but what torch's class computes."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *RECURRENT)
    kind = next((kind for kind in kinds if isinstance(module, kind)), type(module))
    names = ("forward", "_conv_forward")
    # Some programs replace the method of one module, and not that of its class.
    return any(
        name in vars(module) or getattr(type(module), name, None) is not getattr(kind, name, None)
        for name in names
    )


def keep_hooks(module: nn.Module, new: nn.Module) -> None:
    """Let what runs with a module run with the one in its place: it may change its outputs."""
    for name in _HOOKS:
        getattr(new, name).update(getattr(module, name))
    new._is_full_backward_hook = module._is_full_backward_hook


def split_module(
    module: nn.Module, rank: int, *, bias: bool, shape: tuple[int, int] | None = None
) -> nn.Module | None:
    """Two modules of this rank that can replace one; None if it cannot be replaced.

    Args:
        module: the layer.
        rank: number of values between the two.
        bias: whether the layer has a bias.
        shape: (out, in) of a linear layer beside a narrower hidden layer; None for the module's.
    """
    linear = as_linear(module, shape)
    if linear is not None:
        return SplitLinear(linear, rank, bias=bias).train(module.training)
    if is_plain_convolution(module):
        return SplitConvolution(module, rank, bias=bias)
    return None


def as_linear(module: nn.Module, shape: tuple[int, int] | None = None) -> nn.Linear | None:
    """The linear layer that a module is, or one without values for a ``Conv1D``.

    Args:
        module: the module.
        shape: (out, in) of the layer that is wanted, if not the module's.

    Returns:
        None for any other module, and for a linear layer that computes or holds anything else.
    """
    if own_part(module):
        return None
    weight = cast(Tensor, module._parameters.get("weight"))
    if isinstance(module, nn.Linear):
        own = (module.out_features, module.in_features)
    elif type(module).__name__ == "Conv1D" and weight.ndim == 2:
        own = (weight.shape[1], weight.shape[0])  # transformers': stored as in × out
    else:
        return None
    if isinstance(module, nn.Linear) and shape in (None, own):
        return module
    outputs, inputs = shape or own
    linear = nn.Linear(inputs, outputs, device="meta", dtype=weight.dtype)
    return linear.to_empty(device=weight.device)


def is_plain_convolution(module: nn.Module) -> TypeGuard[Convolution]:
    """Whether a module is a convolution in one group that computes and holds nothing else."""
    return isinstance(module, Convolution) and module.groups == 1 and not own_part(module)


def convolutions(
    module: Convolution, rank: int, outputs: int, *, bias: bool
) -> tuple[nn.Module, nn.Module]:
    """A convolution with a layer's kernel to ``rank`` channels, and one with kernel size 1.

    Args:
        module: the layer.
        rank: number of channels between the two.
        outputs: number of channels of the second one.
        bias: whether the second one has a bias.
    """
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
    return first, kind(rank, outputs, 1, bias=bias, **options)
