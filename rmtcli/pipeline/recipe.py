"""How the calibration of one layer is made from its moments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from rmtcli.calibration import Calibration, Cleaner, Eigh, Moments, clean_moments, smoothed
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.checkpoint.names import bias_of
from rmtcli.computing.freed import give_back
from rmtcli.evaluation import Harness
from rmtcli.layers import Layer
from rmtcli.pipeline.solvers import eigh_on
from rmtcli.planning import LayerCalibration, factor_type


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """What the calibration of a layer is made with, beside its moments.

    It is small, and a task on a cluster carries it.

    Attributes:
        layer: the layer.
        biased: whether it has a bias that takes up the mean of what is dropped.
        gradients: whether moments of output gradients are used.
        eigh: what computes eigenvectors.
    """

    layer: Layer
    biased: bool
    gradients: bool
    eigh: Eigh

    @staticmethod
    def of(harness: Harness, layer: Layer, settings: Calibration) -> Recipe:
        """The recipe for a layer of the harness's checkpoint."""
        bias = harness.checkpoint.infos.get(bias_of(layer.tensor))
        biased = bias is not None and bias.shape == layer.shape[:1] and bias.dtype in FLOATS
        return Recipe(layer, biased, settings.gradients, eigh_on(harness.evaluation.device))

    def calibration(self, moments: Moments, raw: Moments) -> LayerCalibration:
        """The layer's calibration, from its moments and from those that are not cleaned."""
        if self.layer.view.table:
            moments = smoothed(moments, self.layer.load())
        gradients = self.gradients and moments.gradient is not None
        apart = None if raw.fold is None else raw
        return LayerCalibration(moments, self.biased, gradients, apart, self.eigh)

    def read(self, moments: Callable[[], Moments], cleaner: Cleaner) -> LayerCalibration:
        """The calibration of a layer whose moments are in a file, with the type of its factors."""
        give_back()  # what the layer before took
        raw = moments()
        cleaned = clean_moments({self.layer.name: raw}, cleaner)[self.layer.name]
        give_back()
        return replace(self.calibration(cleaned, raw), dtype=factor_type(self.layer))
