"""The parts of an adapter that brings a compressed network nearer to the dense one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rmtcli.calibration import whole_loss
from rmtcli.checkpoint import Edited, encode
from rmtcli.checkpoint.names import bias_of
from rmtcli.checkpoint.spill import Stored
from rmtcli.errors import LayerError
from rmtcli.layers import Layer
from rmtcli.pipeline.adapter_parts import Maker, square_of
from rmtcli.pipeline.changes import Changed, Pair
from rmtcli.planning import Fitted, LayerCalibration, LayerPlan, RankChooser
from rmtcli.report.extracted import Extracted
from rmtcli.report.repaired import Repaired
from rmtcli.spectra import Factors


class Repairer(Maker):
    """Makes the low-rank repairs of all layers, and counts the losses before and after them.

    The loss of a layer is that of its error in the metric of the calibration, as a share of that of
    dropping the dense layer; without calibration, its squared relative error. A bias takes up the
    mean of what the repair still misses.

    Args:
        pair: the compressed network and the dense one.
        choose: gives each layer its rank, or the reason why it has none.
        calibrations: those of the dense network's layers; None without calibration.
    """

    def __init__(
        self,
        pair: Pair,
        choose: RankChooser,
        calibrations: Mapping[str, LayerCalibration] | None,
    ) -> None:
        super().__init__(pair, choose)
        self._calibrations = calibrations or {}
        self._whole: dict[str, float] = {}
        base = pair.base.source if isinstance(pair.base, Edited) else pair.base
        self._few_bits = any(base.packed(name) is not None for name in base.infos)

    def _measured(self, item: Fitted, factors: Factors | None) -> tuple[float, float | None]:
        """The root of the share of the loss that stays, and what stays as a share of the layer."""
        name, left = item.layer.name, 1.0
        if factors is not None:
            left = item.spectrum.relative_error(factors.right.shape[0])
        self._whole[name] = whole = self._dropped(item.layer)
        return left, square_of(item.spectrum) * left**2 / whole if whole else 0.0

    def _dropped(self, layer: Layer) -> float:
        """The loss of dropping the dense layer."""
        dense = self._pair.tuned
        weight = layer.view.matrix(layer.view.read(dense, layer.tensor)).astype(np.float64)
        known = self._calibrations.get(layer.name)
        if known is None:
            return float(np.square(weight).sum())
        return whole_loss(weight, known.moments, bias=known.bias, gradients=known.gradients)

    def _type_of(self, layer: Layer) -> str:
        """Sixteen bits where the compressed network has fewer, so that a repair stays small."""
        dtype = super()._type_of(layer)
        return "F16" if dtype == "F32" and self._few_bits else dtype

    def keep(self, plan: LayerPlan) -> LayerPlan:
        """Store the factors of a plan and the bias that belongs to them.

        Raises:
            LayerError: a value is beyond the range of its type.
        """
        if plan.factors is not None and plan.factors.shift is not None:
            name = bias_of(plan.layer.tensor)
            values = self._pair.tuned.array(name).astype(np.float64) + plan.factors.shift
            try:
                made = encode(values, self._pair.base.infos[name].dtype)
            except OverflowError as error:
                raise LayerError(f"{name}: {error}") from None
            self.saved[name] = self._spill.keep(made)
        return super().keep(plan)

    def extracted(
        self,
        plans: Sequence[LayerPlan],
        others: Sequence[Changed],
        saved: Mapping[str, Stored],
        unchanged: int,
    ) -> Extracted:
        """The losses before and after; layers without calibration count where none has any."""
        known = [x for x in plans if not self._calibrations or x.layer.name in self._calibrations]
        result = super().extracted(known, (), saved, unchanged)
        before = {
            plan.layer.name: square_of(plan.spectrum) / (self._whole[plan.layer.name] or 1.0)
            for plan in plans
        }
        whole = sum(self._whole[plan.layer.name] for plan in known) or 1.0
        lost = sum(square_of(plan.spectrum) for plan in known) / whole
        stay = tuple(other.name for other in others if other.name not in saved)
        return Repaired.of(result, before, (lost, lost * (1 - result.kept)), stay)
