"""The error of a stored layer is as predicted; otherwise nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import rmtcli
import rmtcli.planning.fit
from rmtcli import Selection
from rmtcli.errors import CheckpointError
from rmtcli.spectra import Factors, factorize
from tests.conftest import planted

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

#: The only layer, which is an output head otherwise.
ALONE = Selection(include=("a.weight",))


@given(
    dtype=st.sampled_from(list(DTYPES)),
    shape=st.sampled_from([(60, 50), (50, 60), (33, 200), (200, 33)]),
    size=st.sampled_from([1e-3, 1.0, 1e4]),
    rank=st.integers(1, 20),
    layout=st.sampled_from(["factored", "dense"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_reported_error_is_that_of_the_stored_layer(
    dtype: str, shape: tuple[int, int], size: float, rank: int, layout: str, seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("stored")
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(size * rng.standard_normal(shape)).to(DTYPES[dtype])
    save_file({"a.weight": weight}, folder / "a.safetensors")
    out = folder / "b.safetensors"
    report = rmtcli.prune(
        folder / "a.safetensors", out, keep=f"rank:k={rank}", layout=layout, selection=ALONE
    )
    assert report.pruned
    stored = {name: value.double() for name, value in load_file(out).items()}
    if layout == "factored":
        approximated = stored["a.1.weight"] @ stored["a.0.weight"]
    else:
        approximated = stored["a.weight"]
    dense = weight.double()
    error = float(torch.linalg.norm(dense - approximated) / torch.linalg.norm(dense))
    layer = report.to_dict()["layers"][0]
    assert layer["stored_error"] == pytest.approx(error, rel=1e-9)
    # A random matrix of this size has no rank-20 approximation that bfloat16 could spoil.
    assert layer["stored_error"] == pytest.approx(layer["relative_error"], rel=0.02)


@pytest.mark.parametrize("layout", ["factored", "dense"])
@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda f: Factors(1.01 * f.left, f.right), id="scaled"),
        pytest.param(lambda f: Factors(f.left[:, ::-1].copy(), f.right), id="another order"),
        pytest.param(lambda f: Factors(f.left * 0, f.right), id="zero"),
        pytest.param(lambda f: Factors(np.roll(f.left, 1, axis=0), f.right), id="rows moved"),
    ],
)
def test_wrong_factors_are_not_written(
    wrong: Callable[[Factors], Factors], layout: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    weight = torch.from_numpy(planted((80, 60), 3, times=4)).float()
    save_file({"a.weight": weight}, tmp_path / "a.safetensors")
    monkeypatch.setattr(rmtcli.planning.fit, "factorize", lambda *given: wrong(factorize(*given)))
    out = tmp_path / "b.safetensors"

    def prune(**more: bool) -> None:
        rmtcli.prune(
            tmp_path / "a.safetensors", out, keep="rank:k=3", layout=layout, selection=ALONE, **more
        )

    with pytest.raises(CheckpointError, match=r"b\.safetensors: read back .*a\.weight is .* away"):
        prune()
    assert not out.exists()
    prune(verify=False)
    assert out.exists()
