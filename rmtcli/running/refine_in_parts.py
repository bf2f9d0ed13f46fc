"""Fit factors again with one block of each network in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from rmtcli.arrays import FloatArray
from rmtcli.calibration import Folder
from rmtcli.evaluation import Harness
from rmtcli.evaluation.outline import Outline
from rmtcli.planning import LayerPlan, StoredDecomposition
from rmtcli.running.modules import modules_of
from rmtcli.running.refine import shifted
from rmtcli.spectra import Factors


class InParts:
    """Both networks with their matrices on the disk, each read when its block runs.

    The compressed network has the product of a layer's factors in place of its weight. The planned
    factors come from the layer's stored decomposition; new ones are files beside it.

    Args:
        harness: the dense network.
        plans: the pruned layers, all of them calibrated.
        folder: the folder of the calibration.
        refitted: whether the compressed network starts from factors that were stored before.

    Attributes:
        outlines: both networks, as what reads their matrices.
        dense: the dense network.
        pruned: the compressed network.
        modules: the modules of each layer, in both networks.
    """

    def __init__(
        self,
        harness: Harness,
        plans: Sequence[LayerPlan],
        folder: Folder,
        *,
        refitted: bool = False,
    ) -> None:
        network = harness.checkpoint, harness.task, harness.evaluation.device
        self.outlines = Outline(*network), Outline(*network)
        self.dense: nn.Module = self.outlines[0].model
        self.pruned: nn.Module = self.outlines[1].model
        self.modules: Mapping[str, Sequence[str]] = modules_of(
            self.dense, harness.checkpoint, [x.layer for x in plans]
        )
        stored = [x for x in plans if refitted and folder.holds(name_of(x))]
        self._folder, self._new = folder, {plan.layer.name for plan in stored}
        for outline in self.outlines:
            outline.block_by_block()
        for plan in plans:
            shape = harness.checkpoint.infos[plan.layer.tensor].shape
            self.outlines[1].replace(plan.layer.tensor, partial(self._product, plan, shape))
            self._shift(plan, self.factors(plan))

    def factors(self, plan: LayerPlan) -> Factors:
        """The factors of a layer in the compressed network, read from the disk."""
        if plan.layer.name in self._new:
            arrays: dict[str, Any] = self._folder.read(name_of(plan))
            return Factors(**arrays)
        stored = StoredDecomposition.find(self._folder, plan.layer)
        assert stored is not None
        return stored.factors(plan.rank)

    def put(self, plan: LayerPlan, factors: Factors) -> None:
        """Store new factors in the compressed network."""
        arrays = {"left": factors.left, "right": factors.right, "shift": factors.shift}
        self._folder.put(name_of(plan), {key: x for key, x in arrays.items() if x is not None})
        self._new.add(plan.layer.name)
        self._shift(plan, factors)
        for outline in self.outlines:
            outline.drop()

    def close(self) -> None:
        """Let the folder go, which the networks would hold until Python looks for cycles."""
        for outline in self.outlines:
            outline.close()

    def _product(self, plan: LayerPlan, shape: tuple[int, ...]) -> FloatArray:
        """The layer's matrix in the compressed network, as the checkpoint would store it."""
        return np.ascontiguousarray(plan.layer.view.stored(self.factors(plan).product, shape))

    @torch.no_grad()
    def _shift(self, plan: LayerPlan, factors: Factors) -> None:
        """Let the biases of a layer make up for the mean of its error."""
        if factors.shift is None:
            return
        for name in self.modules[plan.layer.name]:
            old = cast(nn.Linear, self.dense.get_submodule(name)).bias
            if old is not None:
                new = cast(nn.Linear, self.pruned.get_submodule(name)).bias
                new.copy_(shifted(old, factors.shift))


def name_of(plan: LayerPlan) -> str:
    """The name in the folder of a layer's new factors."""
    return f"again-{hashlib.sha256(plan.layer.name.encode()).hexdigest()[:32]}"
