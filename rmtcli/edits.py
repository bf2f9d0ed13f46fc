"""Which tensors take the place of which, when layers are split and when they are put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rmtcli.checkpoint import Checkpoint, RawTensor, encode
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.errors import LayerError
from rmtcli.factorize import Factors
from rmtcli.names import factors_of, member, module_of
from rmtcli.plan import LayerPlan, Layout
from rmtcli.spectrum import FloatArray

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
    biases = [name for name in checkpoint.infos if name.rpartition(".")[2] == "bias"]
    ties = {a: b for a, b in checkpoint.ties(biases).items() if a in checkpoint.shared}
    moved: dict[str, RawTensor] = {}  # biases that share a storage go on sharing it
    for plan in plans:
        assert plan.factors is not None
        layer, factors = plan.layer, plan.factors
        if layout is Layout.DENSE:
            tensors = [_encoded(checkpoint, layer.name, factors.product, layer.dtype)]
        else:
            tensors = [
                _encoded(checkpoint, layer.name, factor, layer.dtype)
                for factor in (factors.right, factors.left)
            ]
        for name in (layer.name, *layer.aliases):
            module = module_of(name)
            bias = member(module, "bias")
            right, left, new_bias = factors_of(module)
            if layout is Layout.DENSE:
                edits[name], new_bias = {name: tensors[0]}, bias
            else:
                edits[name] = dict(zip((right, left), tensors, strict=True))
            if bias in checkpoint.infos:
                twin = ties.get(bias, bias)
                if twin not in moved:
                    moved[twin] = _shifted(checkpoint, bias, factors.shift)
                edits[bias] = {new_bias: moved[twin]}
    return edits


def join(checkpoint: Checkpoint) -> Edits:
    """The reverse of :func:`split`, for every module that the checkpoint's manifest names.

    Raises:
        LayerError: there is no manifest, it names no factors, or the file does not hold them.
    """
    path = checkpoint.path
    if checkpoint.manifest is None or not checkpoint.manifest.factored:
        raise LayerError(f"{path}: holds no factors that rmtcli wrote: there is nothing to undo")
    edits: Edits = {}
    ties = {a: b for a, b in checkpoint.ties(checkpoint.infos).items() if a in checkpoint.shared}
    made: dict[str, RawTensor] = {}  # products and biases that several names share
    for module in checkpoint.manifest.factored:
        right, left, bias = factors_of(module)
        check_factors(checkpoint, module)
        twin = ties.get(left, left)
        if twin not in made:
            factors = Factors(*(checkpoint.array(name).astype("f8") for name in (left, right)))
            dtype = checkpoint.infos[left].dtype
            made[twin] = _encoded(checkpoint, module, factors.product, dtype)
        edits |= {right: {member(module, "weight"): made[twin]}, left: {}}
        if bias in checkpoint.infos:
            raw = made.setdefault(ties.get(bias, bias), checkpoint.raw(bias))
            edits[bias] = {member(module, "bias"): raw}
    return edits


def check_factors(checkpoint: Checkpoint, module: str) -> None:
    """Make sure that a checkpoint holds the two factors that its manifest names.

    Raises:
        LayerError: it does not, or they do not fit together.
    """
    right, left, _ = factors_of(module)
    a, b = checkpoint.infos.get(right), checkpoint.infos.get(left)
    if (
        a is None
        or b is None
        or not len(a.shape) == len(b.shape) == 2
        or a.shape[0] != b.shape[1]
        or not {a.dtype, b.dtype} <= FLOATS.keys()
    ):
        raise LayerError(
            f"{checkpoint.path}: the factors of '{module}' are missing or do not fit together: "
            "the file was changed after rmtcli wrote it"
        )


def _encoded(checkpoint: Checkpoint, name: str, values: FloatArray, dtype: str) -> RawTensor:
    try:
        return encode(values, dtype)
    except OverflowError as error:
        raise LayerError(
            f"{checkpoint.path}: {name}: {error}: leave it out with --exclude '{name}'"
        ) from None


def _shifted(checkpoint: Checkpoint, bias: str, shift: FloatArray | None) -> RawTensor:
    """A bias as it is, or with what the dropped part of the weight gives on average."""
    if shift is None:
        return checkpoint.raw(bias)
    values = checkpoint.array(bias).astype("f8") + shift
    return _encoded(checkpoint, bias, values, checkpoint.infos[bias].dtype)
