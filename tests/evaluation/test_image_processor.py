"""Means and deviations of a directory's image processor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rmtcli.errors import EvaluationError, UsageError
from rmtcli.evaluation.pooling import pooling_of
from rmtcli.evaluation.text import image_samples


def normalised(folder: Path, key: str, value: object) -> float:
    np.savez(folder / "i.npz", inputs=np.full((2, 3, 2, 2), 255, np.uint8))
    (folder / "preprocessor_config.json").write_text(json.dumps({key: value}))
    return float(image_samples(folder / "i.npz", folder, "").inputs[0, 2, 0, 0])


@pytest.mark.parametrize("value", ["x", None, {}, [1, 2], [[1], 2, 3], True, 10**400, float("nan")])
@pytest.mark.parametrize("key", ["image_mean", "image_std"])
def test_a_damaged_mean_or_deviation_is_refused(key: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=rf"preprocessor_config\.json: '{key}' must be"):
        normalised(tmp_path, key, value)


def test_one_number_or_one_per_channel(tmp_path: Path) -> None:
    assert normalised(tmp_path, "image_mean", 0) == 2  # (1 - 0) / 0.5
    assert normalised(tmp_path, "image_mean", [0.1, 0.2, 0.25]) == 1.5
    assert normalised(tmp_path, "image_std", [1, 2, 4.0]) == 0.125
    with pytest.raises(EvaluationError, match="'image_std' must be"):
        normalised(tmp_path, "image_std", 0)


@pytest.mark.parametrize("mode", [3, [1], {"a": 1}])
def test_pooling_that_is_not_text_is_refused(mode: object, tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": mode}))
    with pytest.raises(UsageError, match="is not supported: only mean and cls are"):
        pooling_of(tmp_path)
