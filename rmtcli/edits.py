"""Which tensors take the place of which, when layers are split and when they are put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rmtcli.checkpoint import Checkpoint, RawTensor, encode
from rmtcli.errors import LayerError
from rmtcli.factorize import Factors
from rmtcli.layers import bias_of, module_of
from rmtcli.plan import LayerPlan, Layout

Edits = dict[str, Mapping[str, RawTensor]]


def split(checkpoint: Checkpoint, plans: Iterable[LayerPlan], layout: Layout) -> Edits:
    """Each pruned weight becomes ``….0.weight`` and ``….1.weight``, its bias ``….1.bias``.

    These are the names in ``nn.Sequential(Linear(in, r, bias=False), Linear(r, out))``. In the
    dense layout the weight keeps its name and shape.

    Args:
        checkpoint: what the plans were made from.
        plans: pruned layers, with factors.
        layout: how they are to be stored.

    Raises:
        LayerError: a value does not fit the layer's type.
    """
    edits: Edits = {}
    ties = checkpoint.ties(name for name in checkpoint.infos if name.rpartition(".")[2] == "bias")
    moved: dict[str, RawTensor] = {}  # biases that share a storage go on sharing it
    for plan in plans:
        layer, factors = plan.layer, plan.factors
        assert factors is not None
        names = (layer.name, *layer.aliases)
        try:
            if layout is Layout.DENSE:
                dense = encode(factors.product, layer.dtype)
                edits |= {name: {name: dense} for name in names}
                continue
            right, left = encode(factors.right, layer.dtype), encode(factors.left, layer.dtype)
        except OverflowError as error:
            raise LayerError(
                f"{checkpoint.path}: {layer.name}: {error}: leave the layer out with "
                f"--exclude '{layer.name}'"
            ) from None
        for name in names:
            prefix, bias = name.removesuffix("weight"), bias_of(module_of(name))
            edits[name] = {f"{prefix}0.weight": right, f"{prefix}1.weight": left}
            if bias in checkpoint.infos:
                raw = moved.setdefault(ties.get(bias, bias), checkpoint.raw(bias))
                edits[bias] = {f"{prefix}1.bias": raw}
    return edits


def join(checkpoint: Checkpoint) -> Edits:
    """The reverse of :func:`split`, for every module that the checkpoint's manifest names.

    Raises:
        LayerError: there is no manifest, it names no factors, or they are not in the file.
    """
    path = checkpoint.path
    if checkpoint.manifest is None or not checkpoint.manifest.factored:
        raise LayerError(f"{path}: holds no factors that rmtcli wrote: there is nothing to undo")
    edits: Edits = {}
    for module in checkpoint.manifest.factored:
        prefix = f"{module}." if module else ""
        right, left, bias = (f"{prefix}{end}" for end in ("0.weight", "1.weight", "1.bias"))
        if right not in checkpoint.infos or left not in checkpoint.infos:
            raise LayerError(f"{path}: the factors of '{module}' are missing: the file was changed")
        factors = Factors(*(checkpoint.array(name).astype("f8") for name in (left, right)))
        weight = encode(factors.product, checkpoint.infos[left].dtype)
        edits |= {right: {f"{prefix}weight": weight}, left: {}}
        if bias in checkpoint.infos:
            edits[bias] = {bias_of(module): checkpoint.raw(bias)}
    return edits
