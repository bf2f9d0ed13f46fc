"""What the guard measures of a score of the user's own."""

from __future__ import annotations

import numpy as np
import pytest

from rmtcli.errors import EvaluationError
from rmtcli.evaluation import Scores
from rmtcli.planning import Drop, score_drop
from rmtcli.running.guarded import _of_score


def test_scores_of_samples_are_paired_and_single_numbers_are_not() -> None:
    a, b = np.array([1.0, 2, 4]), np.array([1.0, 1, 4])
    before, after = (Scores(None, None, float(x.mean()), scored=x) for x in (a, b))
    assert _of_score(7 / 3, before, after) == score_drop(a, b)
    single = Scores(None, None, 2.0)
    assert _of_score(3.0, single, single) == Drop(1.0, 0.0)
    shorter = Scores(None, None, 1.0, scored=a[:2])
    for other in (single, shorter):
        with pytest.raises(EvaluationError, match="one score per sample for some networks only"):
            _of_score(7 / 3, before, other)
