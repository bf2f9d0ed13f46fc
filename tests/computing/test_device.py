"""Decompositions by torch, on a GPU if there is one; the CPU stands in for other devices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.linalg import LinAlgError

import rmtcli
from rmtcli.calibration import Calibration, Moments
from rmtcli.computing import device as device_module
from rmtcli.computing.device import OnDevice, has_solver
from rmtcli.errors import UsageError
from rmtcli.planning import Budget, LayerCalibration
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
def test_the_decomposition_equals_the_one_on_the_cpu(
    device: str, shape: tuple[int, int], size: float
) -> None:
    weight = noise(shape, size)
    on_device = OnDevice(device).spectrum(weight, vectors=True)
    on_cpu = spectrum(weight, vectors=True)
    np.testing.assert_allclose(on_device.eigenvalues, on_cpu.eigenvalues, rtol=1e-11)
    assert OnDevice(device).spectrum(weight).form is None
    k = min(shape) // 2
    products = [factorize(weight, s, k).product / size for s in (on_device, on_cpu)]
    np.testing.assert_allclose(products[0], products[1], atol=1e-11)


def test_vectors_belong_to_the_largest_eigenvalues() -> None:
    weight = planted((80, 50), 2, times=9)
    result = OnDevice("cpu").spectrum(weight, vectors=True)
    basis = result.leading(2)
    gram = weight.T @ weight / 80
    np.testing.assert_allclose(gram @ basis, basis * result.eigenvalues[::-1][:2], atol=1e-10)
    assert result.leading(0).shape == (50, 0)
    with pytest.raises(ValueError, match="51"):
        result.leading(51)


@pytest.mark.parametrize(("cuda", "mps", "best"), [(1, 1, "cuda"), (0, 1, "mps"), (0, 0, "cpu")])
def test_auto_is_the_accelerator_that_torch_has(
    cuda: int, mps: int, best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))
    assert rmtcli.Evaluation(device="auto").device == best


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> str:
    """A device that is the CPU but is treated as an accelerator."""
    monkeypatch.setattr(device_module, "_CPU_KINDS", ("mps",))
    return "cpu:0"


def test_an_analysis_on_an_accelerator_gives_the_same_report(
    accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    monkeypatch.setattr(
        OnDevice,
        "spectrum",
        lambda self, weight, real=OnDevice.spectrum, **how: (
            shapes.append(weight.shape) or real(self, weight, **how)
        ),
    )
    there, here = rmtcli.analyze(DEEP, device=accelerator), rmtcli.analyze(DEEP)
    assert len(shapes) == len(here.layers)
    for a, b in zip(there.layers, here.layers, strict=True):
        assert (a.rank, a.spikes, a.fit.verdict) == (b.rank, b.spikes, b.fit.verdict)
        assert a.fit.edge == pytest.approx(b.fit.edge, rel=1e-9)


def test_pruning_on_an_accelerator_gives_the_same_products(
    accelerator: str, tmp_path: Path
) -> None:
    out = [tmp_path / name for name in ("a.pt", "b.pt")]
    for path, device in zip(out, (accelerator, "cpu"), strict=True):
        rmtcli.prune(DEEP, path, evaluation=rmtcli.Evaluation(device=device))
    a, b = (torch.load(path, weights_only=True)["model_state_dict"] for path in out)
    assert a.keys() == b.keys()
    for module in {name.rpartition(".0.")[0] for name in a if name.endswith(".0.weight")}:
        products = [x[f"{module}.1.weight"] @ x[f"{module}.0.weight"] for x in (a, b)]
        torch.testing.assert_close(*products, atol=1e-5, rtol=0)


def test_a_cache_is_refused_on_an_accelerator(accelerator: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cache= keeps what the processor computes"):
        rmtcli.analyze(DEEP, device=accelerator, cache=tmp_path)


def test_has_solver_is_false_for_the_cpu_and_mps() -> None:
    assert not has_solver("cpu")
    assert not has_solver("mps")
    for device in ("nonsense", "cuda:99"):
        with pytest.raises(UsageError, match=f"device '{device}' cannot be used"):
            has_solver(device)


def test_a_layer_whose_solver_fails_is_skipped(
    accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    report = rmtcli.analyze(DEEP, device=accelerator)
    assert not report.layers
    assert {item.reason.name for item in report.skipped} == {"NO_CONVERGENCE"}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(60, 40), (40, 60)])
def test_maps_in_the_metric_of_the_data_equal_those_on_the_cpu(
    device: str, shape: tuple[int, int]
) -> None:
    out, inputs = shape
    weight, x, g = noise(shape, 1.0), noise((90, inputs), 1.0), noise((90, out), 1.0)
    moments = Moments(90, 90, x.mean(0), x.T @ x / 90, g.T @ g / 90)
    here = LayerCalibration(moments, True, True)
    there = replace(here, eigh=OnDevice(device).eigh)
    maps = [known.decompose(weight) for known in (there, here)]
    np.testing.assert_allclose(maps[0].losses, maps[1].losses, rtol=1e-9)
    products = [own.factors(15).product for own in maps]
    np.testing.assert_allclose(products[0], products[1], atol=1e-9)
    np.testing.assert_allclose(there.whitened(weight), here.whitened(weight), atol=1e-9)


def test_a_calibrated_layer_is_decomposed_on_the_accelerator(
    accelerator: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sides, solve = [], torch.linalg.eigh
    monkeypatch.setattr(
        torch.linalg, "eigh", lambda matrix: (sides.append(len(matrix)), solve(matrix))[1]
    )
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 3))
    data, products = Calibration(torch.randn(200, 40).numpy()), []
    for device in (accelerator, "cpu"):
        path = tmp_path / f"{len(products)}.safetensors"
        options = {"calibration": data, "evaluation": rmtcli.Evaluation(device=device)}
        rmtcli.prune(net, path, budget=Budget("60%"), **options)
        new = load_file(path)
        products.append(new["0.1.weight"] @ new["0.0.weight"])
    # A root of the inputs' moment and the maps; and the head, which is not calibrated.
    assert sorted(sides) == [3, 40, 40]  # layers are decomposed in any order
    torch.testing.assert_close(*products, atol=1e-5, rtol=0)
