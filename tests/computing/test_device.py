"""Decompositions by torch, on whatever device there is; torch's own processor stands for others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.linalg import LinAlgError

import rmtcli
from rmtcli.computing import device as decompose
from rmtcli.computing.device import OnDevice, has_solver
from rmtcli.errors import UsageError
from rmtcli.spectra import factorize, spectrum
from tests.conftest import SAMPLES, noise, planted

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
    ),
]
DEEP = SAMPLES / "mnist_deep.pt"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(90, 60), (60, 90), (64, 64), (1, 40), (40, 1)])
@pytest.mark.parametrize("size", [1e-140, 1.0, 1e140])
def test_it_is_the_processors_own(device: str, shape: tuple[int, int], size: float) -> None:
    weight = noise(shape, size)
    there, here = OnDevice(device).spectrum(weight, vectors=True), spectrum(weight, vectors=True)
    np.testing.assert_allclose(there.eigenvalues, here.eigenvalues, rtol=1e-11)
    assert OnDevice(device).spectrum(weight).form is None
    k = min(shape) // 2
    both = [factorize(weight, s, k).product / size for s in (there, here)]
    np.testing.assert_allclose(both[0], both[1], atol=1e-11)


def test_vectors_are_the_leading_ones() -> None:
    weight = planted((80, 50), 2, times=9)
    found = OnDevice("cpu").spectrum(weight, vectors=True)
    basis = found.leading(2)
    gram = weight.T @ weight / 80
    np.testing.assert_allclose(gram @ basis, basis * found.eigenvalues[::-1][:2], atol=1e-10)
    assert found.leading(0).shape == (50, 0)
    with pytest.raises(ValueError, match="51"):
        found.leading(51)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """A device that is the processor, and is not treated as such."""
    monkeypatch.setattr(decompose, "_LEFT", ("mps",))
    return "cpu:0"


def test_a_whole_analysis_is_the_same(elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        OnDevice,
        "spectrum",
        lambda self, weight, real=OnDevice.spectrum, **how: (
            asked.append(weight.shape) or real(self, weight, **how)
        ),
    )
    there, here = rmtcli.analyze(DEEP, device=elsewhere), rmtcli.analyze(DEEP)
    assert len(asked) == len(here.layers)
    for a, b in zip(there.layers, here.layers, strict=True):
        assert (a.rank, a.spikes, a.fit.verdict) == (b.rank, b.spikes, b.fit.verdict)
        assert a.fit.edge == pytest.approx(b.fit.edge, rel=1e-9)


def test_pruning_is_the_same(elsewhere: str, tmp_path: Path) -> None:
    out = [tmp_path / name for name in ("a.pt", "b.pt")]
    for path, device in zip(out, (elsewhere, "cpu"), strict=True):
        rmtcli.prune(DEEP, path, evaluation=rmtcli.Evaluation(device=device))
    a, b = (torch.load(path, weights_only=True)["model_state_dict"] for path in out)
    assert a.keys() == b.keys()
    for module in {name.rpartition(".0.")[0] for name in a if name.endswith(".0.weight")}:
        products = [x[f"{module}.1.weight"] @ x[f"{module}.0.weight"] for x in (a, b)]
        torch.testing.assert_close(*products, atol=1e-5, rtol=0)


def test_a_cache_is_the_processors(elsewhere: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--cache keeps what the processor computes"):
        rmtcli.analyze(DEEP, device=elsewhere, cache=tmp_path)


def test_which_devices_decompose() -> None:
    assert not has_solver("cpu")
    assert not has_solver("mps")
    for device in ("nonsense", "cuda:99"):
        with pytest.raises(UsageError, match=f"device '{device}' cannot be used"):
            has_solver(device)


def test_a_solver_that_fails_costs_a_layer(elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    report = rmtcli.analyze(DEEP, device=elsewhere)
    assert not report.layers
    assert {item.reason.name for item in report.skipped} == {"NO_CONVERGENCE"}
