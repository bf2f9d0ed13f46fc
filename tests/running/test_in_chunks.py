"""Moments from chunks of the samples, which a cluster's workers add up."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rmtcli.calibration import ByLayer, Calibration, Moments
from rmtcli.checkpoint import open_checkpoint
from rmtcli.computing import Cluster
from rmtcli.errors import UsageError
from rmtcli.evaluation import Evaluation, Harness
from rmtcli.layers import Layer, find_layers
from rmtcli.pipeline.curve import curve
from rmtcli.pipeline.fits import Fitter
from rmtcli.planning import LayerCalibration
from rmtcli.running.calibrate import calibrate
from rmtcli.running.in_chunks import CHUNKS, calibrate_on
from tests.running.one_by_one import one_by_one


@contextmanager
def threads(count: int) -> Iterator[Cluster]:
    """A cluster whose workers are threads of this process."""
    with ThreadPoolExecutor(count) as executor:
        yield Cluster(executor, count)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Harness, list[Layer], Calibration]:
    """Three layers, and 203 samples whose mean is far from 0."""
    folder = tmp_path_factory.mktemp("chunks")
    generator = torch.Generator().manual_seed(0)
    sizes = {"0.weight": (24, 16), "2.weight": (20, 24), "4.weight": (4, 20)}
    state = {name: torch.randn(shape, generator=generator) / 4 for name, shape in sizes.items()}
    torch.save(state, folder / "net.pt")
    inputs = np.random.default_rng(0).standard_normal((203, 16)).astype(np.float32) + 3
    np.savez(folder / "data.npz", inputs=inputs)
    harness = Evaluation().resolve(open_checkpoint(folder / "net.pt"))
    layers = [x for x in find_layers(harness.checkpoint) if isinstance(x, Layer)]
    return harness, layers, Calibration(folder / "data.npz")


def arrays(moments: Moments) -> Iterator[np.ndarray]:
    for part in (moments, moments.fold):
        assert part is not None
        assert part.gradient is not None
        yield from (part.mean, part.second, part.gradient)


def test_moments_have_the_same_bytes_with_any_number_of_workers(
    network: tuple[Harness, list[Layer], Calibration],
) -> None:
    results = []
    for count in (1, 2, 4):
        with threads(count) as cluster:
            results.append(calibrate_on(cluster, *network, "hash"))
    for layer in network[1]:
        first, *others = ([x.tobytes() for x in arrays(r[layer.name])] for r in results)
        assert all(other == first for other in others)
        assert len({r[layer.name].independent for r in results}) == 1


def test_they_are_those_of_one_process_up_to_rounding_and_random_draws(
    network: tuple[Harness, list[Layer], Calibration],
) -> None:
    whole = calibrate(*network)
    with threads(1) as cluster:
        parts = calibrate_on(cluster, *network, "hash")
    assert len(range(0, 203, 203 // CHUNKS)) > CHUNKS  # chunks of several batches
    for number, layer in enumerate(network[1]):
        a, b = whole[layer.name], parts[layer.name]
        assert (a.rows, a.samples, a.of_outputs) == (b.rows, b.samples, b.of_outputs)
        # What later layers read is computed in float32, by kernels that differ with the rows of a
        # batch on some processors.
        rtol = 1e-6 if number else 1e-12
        np.testing.assert_allclose(a.mean, b.mean, rtol=rtol)
        np.testing.assert_allclose(a.second, b.second, rtol=rtol, atol=rtol / 10)
        assert a.fold is not None
        assert b.fold is not None
        np.testing.assert_allclose(a.fold.second, b.fold.second, rtol=rtol, atol=rtol / 10)
        assert b.independent == pytest.approx(a.independent, rel=1e-6 if number else 1e-9)
        assert a.gradient is not None
        assert b.gradient is not None
        assert np.trace(b.gradient) == pytest.approx(np.trace(a.gradient), rel=0.2)
    alone = replace(network[2], metric="one-sided")
    with threads(1) as cluster:
        parts = calibrate_on(cluster, *network[:2], alone, "other")
    assert all(parts[layer.name].gradient is None for layer in network[1])


def test_sums_of_a_chunk_are_gone_when_the_next_ones_arrive(
    network: tuple[Harness, list[Layer], Calibration],
) -> None:
    assert calibrate_on(one_by_one(), *network, "one by one")


def test_a_curve_is_the_same_with_any_number_of_workers(
    network: tuple[Harness, list[Layer], Calibration], monkeypatch: pytest.MonkeyPatch
) -> None:
    harness, _, calibration = network
    reports = []
    for count in (1, 3):
        monkeypatch.setattr(
            "rmtcli.pipeline.curve.connected", lambda address: threads(int(address))
        )
        evaluation = Evaluation(calibration.data)
        options = {"sizes": ["70%"], "evaluation": evaluation, "calibration": calibration}
        reports.append(curve(harness.checkpoint.path, executor=str(count), **options))
        assert reports[-1].calibrated is not None
    assert reports[0].to_json() == reports[1].to_json()


def test_a_network_in_memory_is_refused(
    network: tuple[Harness, list[Layer], Calibration],
) -> None:
    harness = Evaluation().resolve(open_checkpoint(torch.nn.Sequential(torch.nn.Linear(16, 24))))
    with threads(1) as cluster, pytest.raises(UsageError, match="this one is in memory"):
        calibrate_on(cluster, harness, network[1], network[2], "hash")


def test_a_task_carries_the_calibration_of_its_layer_alone(tmp_path: Path) -> None:
    first, second = (
        LayerCalibration.__new__(LayerCalibration),
        LayerCalibration.__new__(LayerCalibration),
    )
    torch.save({"a.weight": torch.ones(4, 4), "b.weight": torch.ones(4, 4)}, tmp_path / "a.pt")
    a, b = find_layers(open_checkpoint(tmp_path / "a.pt"))
    known = ByLayer({"a.weight": first, "c.weight": second}, {})
    fitter = Fitter(None, known)  # type: ignore[arg-type]
    own, none = fitter.alone(a).calibrations, fitter.alone(b).calibrations
    assert own is not None
    assert none is not None
    assert dict(own) == {"a.weight": first}
    assert not none
