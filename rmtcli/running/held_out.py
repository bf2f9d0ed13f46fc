"""Inputs that are held out, to check whether a refinement makes a network better."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rmtcli.errors import EvaluationError
from rmtcli.running.calibrate import CalibrationInputs

_LOGGER = logging.getLogger(__name__)

#: Share of the inputs that is held out, and the largest number of them.
SHARE, MOST = 0.1, 1_000


class HeldOut:
    """Calibration inputs in two parts: to refine on, and to check the result on.

    Args:
        source: the inputs.
        dense: the dense network.

    Attributes:
        inputs: the inputs to refine on, in their order.
    """

    def __init__(self, source: CalibrationInputs, dense: nn.Module) -> None:
        order = np.random.default_rng(0).permutation(len(source.inputs))
        count = max(1, min(MOST, round(SHARE * len(order))))
        self.inputs: NDArray[Any] = source.inputs[np.sort(order[count:])]
        self._source, self._dense, self._rest = source, dense, source.inputs[order[:count]]

    def distance(self, pruned: nn.Module) -> float:
        """How much a network differs from the dense one on the inputs held out.

        Infinite if the network's outputs are not finite.
        """
        try:
            return self._source.distance(self._dense, pruned, self._rest)
        except EvaluationError as error:  # other networks ran before
            _LOGGER.info("%s", error)
            return float("inf")
