"""How many backward passes a calibration takes."""

from __future__ import annotations

import numpy as np

from rmtcli.evaluation.tasks import Arrays, CausalLM
from rmtcli.running.calibrate import MOST_DRAWS, PASSES, _draws


def test_few_samples_get_several_passes() -> None:
    assert _draws(Arrays(), np.zeros((4096, 3))) == 1
    assert _draws(Arrays(), np.zeros((PASSES // 4, 3))) == 4
    assert _draws(Arrays(), np.zeros((2, 3))) == MOST_DRAWS


def test_the_positions_of_a_language_model_count_and_not_its_texts() -> None:
    inputs = np.ones((2, 2, PASSES), np.int64)
    assert _draws(CausalLM(), inputs) == 1
    assert _draws(CausalLM(), inputs[..., : PASSES // 8]) == 4
