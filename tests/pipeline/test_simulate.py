"""Checkpoints with known truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import rmtcli
from rmtcli.errors import UsageError
from rmtcli.noise import NOISES, planted


@pytest.mark.parametrize("name", sorted(NOISES.choices))
def test_noise_has_mean_0_and_mean_variance_1(name: str) -> None:
    kind = NOISES.parse(name)
    entries = np.stack([kind.draw(np.random.default_rng(i), (200, 300)) for i in range(5)])
    assert abs(entries.mean()) < 0.02
    # Student's t with three degrees of freedom converges slowly.
    assert entries.var() == pytest.approx(1, rel=0.2 if name == "student" else 0.03)
    again = kind.draw(np.random.default_rng(0), (200, 300))
    assert np.array_equal(again, entries[0])


def test_planted_directions_have_the_requested_strength() -> None:
    rng = np.random.default_rng(0)
    w = planted(rng, (60, 90), NOISES.parse("gaussian"), sigma=1e-9, rank=3, times=1e9)
    singular = np.linalg.svd(w, compute_uv=False)
    assert singular[:3] == pytest.approx(np.full(3, (60 * 90) ** 0.25), rel=1e-6)
    assert singular[3] < 1e-6


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_planted_directions_are_recovered(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    rmtcli.simulate(path, (150, 200), layers=2, sigma=0.02, rank=4, times=3, dtype=dtype)
    with safe_open(path, "np") as file:
        truth = json.loads(file.metadata()["truth"])
    assert truth["layers.1.weight"]["rank"] == 4
    head, *layers = rmtcli.analyze(path).layers
    assert head.layer.head
    assert [plan.layer.name for plan in layers] == list(truth)
    for plan in layers:
        assert plan.spikes == plan.rank == 4
        assert plan.fit.law.sigma == pytest.approx(0.02, rel=0.02)
        strength = plan.fit.signal(200, plan.above).strength  # type: ignore[union-attr]
        expected = truth[plan.layer.name]["strength"]
        assert strength == pytest.approx(np.full(4, expected), rel=0.25)


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        rmtcli.simulate(file, (40, 30), noise="uniform", seed=seed)
    first, again, other = (file.read_bytes() for file in files)
    assert first == again != other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 31}, "at most 30"),
        ({"noise": "pink"}, "unknown noise 'pink'"),
        ({"noise": "sparse:density=0"}, "density must be"),
        ({"sigma": 0.0}, "must be positive"),
        ({"layers": 0}, "at least 1"),
        ({"dtype": "int8"}, "choose one of"),
        ({"sigma": 1e6, "dtype": "float16"}, "beyond the range of float16"),
    ],
)
def test_wrong_options_leave_no_file(
    options: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(UsageError, match=message):
        rmtcli.simulate(path, (40, 30), **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_other_formats_cannot_hold_the_truth(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs a \.safetensors file"):
        rmtcli.simulate(tmp_path / "a.pt", (40, 30))
