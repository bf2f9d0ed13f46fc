"""From the moments of a network's modules to those of a checkpoint's layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from rmtcli.calibration import ByLayer, Calibration, Moments, OnDemand, StoredMoments
from rmtcli.calibration.moments import merge
from rmtcli.calibration.tables import with_heads
from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.names import unit_of
from rmtcli.evaluation import Harness
from rmtcli.evaluation.outline import Outline
from rmtcli.evaluation.pretrained import Pretrained
from rmtcli.keep import Untouched
from rmtcli.layers import Layer
from rmtcli.layouts.wrapped import naming
from rmtcli.running.modules import is_lookup, scale_of


@dataclass(frozen=True, slots=True, eq=False)
class Collected:
    """The moments of a network's modules.

    Attributes:
        model: the network.
        modules: the modules of each layer.
        moments: the moments, by module.
        outline: reads the network's weights, if they are not there.
    """

    model: nn.Module
    modules: Mapping[str, Sequence[str]]
    moments: Mapping[str, Moments]
    outline: Outline | None = None

    def by_layer(
        self, harness: Harness, layers: Sequence[Layer], settings: Calibration
    ) -> ByLayer[Moments]:
        """The moments of each layer, and why others have none."""
        made: dict[str, Callable[[], Moments]] = {}
        missing: dict[str, Untouched] = {}
        for layer in layers:
            names = [name for name in self.modules[layer.name] if name in self.moments]
            heads = [name for name in names if layer.view.table and _scores(self.model, name)]
            parts = [name for name in names if name not in heads]
            if not self.modules[layer.name]:
                missing[layer.name] = _unwatched(self.model, harness.checkpoint, layer)
            elif not parts:
                missing[layer.name] = Untouched.NO_DATA
            elif settings.gradients and not all(map(self._has_gradient, parts)):
                missing[layer.name] = Untouched.UNUSED
            else:
                of = layer, parts, heads, self._scale(names)
                made[layer.name] = partial(_merged, self.moments, *of)
        if isinstance(self.moments, StoredMoments):
            return ByLayer(OnDemand(made), missing)
        return ByLayer({name: make() for name, make in made.items()}, missing)

    def _has_gradient(self, name: str) -> bool:
        if isinstance(self.moments, StoredMoments):
            return self.moments.has_gradient(name)
        return self.moments[name].gradient is not None

    def _scale(self, names: Sequence[str]) -> float:
        """The number by which a table's first module multiplies the rows that it looks up."""
        table = self.model.get_submodule(names[0])
        if len(names) < 2 or not is_lookup(table):
            return 1.0
        if self.outline is not None:
            self.outline.load(table)
        scale = scale_of(table)
        if self.outline is not None:
            self.outline.drop()
        return scale


def _merged(
    moments: Mapping[str, Moments],
    layer: Layer,
    parts: Sequence[str],
    heads: Sequence[str],
    scale: float,
) -> Moments:
    """The moments of a layer whose weight some modules share."""
    merged = merge([moments[name] for name in parts])
    if heads:
        merged = with_heads(merged, [moments[name] for name in heads], scale)
    return _of_gate(merged, layer)


def _scores(model: nn.Module, name: str) -> bool:
    """Whether a table's module is an output head that is tied to it."""
    return not is_lookup(model.get_submodule(name))


def _of_gate(moments: Moments, layer: Layer) -> Moments:
    """The moments of one gate of a recurrent layer, whose outputs are some of the matrix's."""
    if layer.view.rows is None or moments.gradient is None:
        return moments
    own = slice(*layer.view.rows)
    return replace(moments, gradient=moments.gradient[own, own], fold=None)


def _unwatched(model: nn.Module, checkpoint: Checkpoint, layer: Layer) -> Untouched:
    """Why no module of the model can be watched for a layer."""
    name = None if isinstance(model, Pretrained) else naming(model, checkpoint)(layer.tensor)
    modules = dict(model.named_modules(remove_duplicate=False))
    module = None if name is None else modules.get(unit_of(name))
    return Untouched.GROUPS if getattr(module, "groups", 1) > 1 else Untouched.NOT_CALIBRATED
