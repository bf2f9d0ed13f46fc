"""Which tensors take the place of which, when layers are split and when they are put together."""

from __future__ import annotations

from collections.abc import Mapping

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import Checkpoint, Edits, RawTensor, encode
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.checkpoint.names import factors_of, member, module_of
from rmtcli.checkpoint.spill import Spill, Spilled, Stored
from rmtcli.errors import LayerError
from rmtcli.layers import Layer
from rmtcli.planning import LayerPlan, Layout
from rmtcli.spectra import Factors


class Splitter:
    """What takes the place of pruned layers, made layer by layer.

    A weight becomes ``….0.weight`` and ``….1.weight``, its bias ``….1.bias``: the names in
    ``nn.Sequential(Linear(in, r, bias=False), Linear(r, out))``. In the dense layout the weight
    keeps its name and shape. Siblings' right factor is one tensor under several names. What is made
    waits in a file, so that memory holds one layer.

    Args:
        checkpoint: what the layers come from.
        layout: how pruned layers are to be stored.

    Attributes:
        edits: for each tensor to go, what stands in its place.
    """

    def __init__(self, checkpoint: Checkpoint, layout: Layout) -> None:
        self.checkpoint, self.layout = checkpoint, layout
        self.edits: dict[str, Mapping[str, Stored]] = {}
        self._spill = Spill()
        biases = [name for name in checkpoint.infos if name.rpartition(".")[2] == "bias"]
        ties = checkpoint.ties(biases)
        self._twins = {a: b for a, b in ties.items() if a in checkpoint.shared}
        self._moved: dict[str, Stored] = {}  # biases that share a storage go on sharing it
        self._parts: dict[str, Spilled] = {}  # tensors of which parts are replaced
        self._rights: dict[str, Stored] = {}  # right factors by the name of their first layer

    def add(self, plan: LayerPlan) -> None:
        """Take up one pruned layer, with its factors.

        Raises:
            LayerError: a value does not fit the layer's type.
        """
        assert plan.factors is not None
        layer, factors = plan.layer, plan.factors
        if self.layout is Layout.DENSE:
            new = self._dense(layer, factors)
        else:
            left, right = layer.view.factors(factors.left, factors.right)
            group = plan.group or layer.name
            if group not in self._rights:
                self._rights[group] = self._encoded(layer, right)
            pair = [self._rights[group], self._encoded(layer, left)]
        for name in (layer.tensor, *layer.aliases):
            module = module_of(name)
            bias = member(module, "bias")
            first, last, new_bias = factors_of(module)
            if self.layout is Layout.DENSE:
                self.edits[name], new_bias = {name: new}, bias
            else:
                self.edits[name] = dict(zip((first, last), pair, strict=True))
            if bias in self.checkpoint.infos and layer.view.rows is None:
                self.edits[bias] = {new_bias: self._bias(bias, factors.shift)}

    def _dense(self, layer: Layer, factors: Factors) -> Spilled:
        """The whole tensor, with the approximation in the layer's part of it."""
        view, name = layer.view, layer.tensor
        values = view.stored(factors.product, self.checkpoint.infos[name].shape)
        made = _encoded(self.checkpoint, layer.name, values, layer.dtype)
        if view.rows is None:
            return self._spill.keep(made)
        if name not in self._parts:
            self._parts[name] = self._spill.keep(self.checkpoint.raw(name))
        self._parts[name].put(view.rows[0], made)
        return self._parts[name]

    def _encoded(self, layer: Layer, factor: FloatArray) -> Stored:
        return self._spill.keep(_encoded(self.checkpoint, layer.name, factor, layer.dtype))

    def _bias(self, name: str, shift: FloatArray | None) -> Stored:
        twin = self._twins.get(name, name)
        if twin not in self._moved:
            self._moved[twin] = self._spill.keep(_shifted(self.checkpoint, name, shift))
        return self._moved[twin]


def join(checkpoint: Checkpoint) -> Edits:
    """The reverse of :class:`Splitter`, for every module that the checkpoint's manifest names.

    Raises:
        LayerError: there is no manifest, it names no factors, or the file does not hold them.
    """
    path = checkpoint.path
    if checkpoint.manifest is None or not checkpoint.manifest.factored:
        raise LayerError(f"{path}: holds no factors that rmtcli wrote: there is nothing to undo")
    edits: dict[str, Mapping[str, Stored]] = {}
    spill = Spill()
    ties = {a: b for a, b in checkpoint.ties(checkpoint.infos).items() if a in checkpoint.shared}
    made: dict[str, Stored] = {}  # products and biases that several names share
    for module in checkpoint.manifest.factored:
        right, left, bias = factors_of(module)
        check_factors(checkpoint, module)
        twin = ties.get(left, left)
        if twin not in made:
            product = _product(checkpoint, module)
            transposed = module.rpartition(".")[2] in checkpoint.about.transposed
            product, dtype = product.T if transposed else product, checkpoint.infos[left].dtype
            made[twin] = spill.keep(_encoded(checkpoint, module, product, dtype))
        # In place of the left factor, because the right one may be a sibling's, and a tied name.
        edits |= {right: {}, left: {member(module, "weight"): made[twin]}}
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
        or not 2 <= len(a.shape) == len(b.shape)
        or a.shape[0] != b.shape[1]
        or set(b.shape[2:]) > {1}
        or not {a.dtype, b.dtype} <= FLOATS.keys()
    ):
        raise LayerError(
            f"{checkpoint.path}: the factors of '{module}' are missing or do not fit together: "
            "the file was changed after rmtcli wrote it"
        )


def factor_matrices(checkpoint: Checkpoint, module: str) -> tuple[FloatArray, FloatArray]:
    """A split module's left factor, out × r, and right one, r × in, convolutions flattened."""
    right, left, _ = factors_of(module)
    a, b = (checkpoint.array(name).astype("f8") for name in (left, right))
    return a.reshape(a.shape[:2]), b.reshape(len(b), -1)


def _product(checkpoint: Checkpoint, module: str) -> FloatArray:
    """The weight that two factors make: a matrix, or a convolution's kernels."""
    left, right = factor_matrices(checkpoint, module)
    kernel = checkpoint.infos[factors_of(module)[0]].shape[1:]
    return (left @ right).reshape(len(left), *kernel)


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
