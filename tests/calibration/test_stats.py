"""Files of calibration statistics."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import rmtcli
from rmtcli.calibration import ByLayer, Moments, Origin, read_stats, write_stats
from rmtcli.calibration.stats import KEY, VERSION
from rmtcli.errors import CheckpointError, RmtcliError
from rmtcli.keep import Untouched
from rmtcli.planning import Budget
from tests.conftest import SAMPLES, Run, tree

ORIGIN = Origin("a", "b", True, "c")


def moments(seed: int, shared: np.ndarray | None = None) -> Moments:
    rng = np.random.default_rng(seed)
    second = rng.standard_normal((5, 5)) if shared is None else shared
    return Moments(7, 3, rng.standard_normal(5), second, rng.standard_normal((4, 4)))


def test_what_is_written_is_read_bit_for_bit(tmp_path: Path) -> None:
    a = moments(0)
    b = Moments(9, 3, a.mean, a.second, None)
    write_stats(
        tmp_path / "s.safetensors",
        ByLayer({"a": a, "b": b}, {"unreached": Untouched.NO_DATA}),
        ORIGIN,
    )
    loaded, origin = read_stats(tmp_path / "s.safetensors")
    assert origin == ORIGIN
    assert loaded.missing == {"unreached": Untouched.NO_DATA}
    for name, expected in (("a", a), ("b", b)):
        item = loaded[name]
        assert item is not None
        assert (item.rows, item.samples, item.shapes) == (
            expected.rows,
            expected.samples,
            expected.shapes,
        )
        np.testing.assert_array_equal(item.mean, expected.mean)
        np.testing.assert_array_equal(item.second, expected.second)
    # Siblings share the moments of their inputs in the file too.
    assert len(load_file(tmp_path / "s.safetensors")) == 3


def save(path: Path, record: object) -> None:
    save_file({"x": np.ones(3)}, path, {KEY: json.dumps(record)})


@pytest.mark.parametrize(
    "record", [None, 3, [], {}, {"version": VERSION + 1}, {"version": VERSION, "layers": 0}]
)
def test_files_without_statistics_are_refused(tmp_path: Path, record: object) -> None:
    save(tmp_path / "s.safetensors", record)
    with pytest.raises(CheckpointError, match=r"s\.safetensors: "):
        read_stats(tmp_path / "s.safetensors")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small network, ``deep.pt``, and two files of inputs."""
    folder, rng = tmp_path_factory.mktemp("network"), torch.Generator().manual_seed(0)
    sides = (64, 96, 96, 64, 10)
    state = {}
    for i, (inputs, outputs) in enumerate(pairwise(sides), 1):
        state[f"fc{i}.weight"] = torch.randn(outputs, inputs, generator=rng) / inputs**0.5
        state[f"fc{i}.bias"] = torch.zeros(outputs)
    torch.save(state, folder / "deep.pt")
    for name, count in (("inputs.npz", 200), ("other.npz", 40)):
        np.savez(folder / name, inputs=torch.randn(count, 64, generator=rng).numpy())
    return folder


def pruned(network: Path, stats: Path, output: Path, **options: object) -> rmtcli.Calibration:
    calibration = rmtcli.Calibration(**({"stats": stats} | options))  # type: ignore[arg-type]
    model = network / "deep.pt"
    rmtcli.prune(model, output, budget=Budget("50%"), calibration=calibration, force=True)
    return calibration


def test_statistics_replace_the_data(network: Path, tmp_path: Path) -> None:
    stats = tmp_path / "s.safetensors"
    pruned(network, stats, tmp_path / "a.pt", data=network / "inputs.npz")
    written = stats.read_bytes()
    pruned(network, stats, tmp_path / "b.pt")
    pruned(network, stats, tmp_path / "c.pt", data=network / "inputs.npz")
    # One-sided ranks need no gradients, and may come from the same file.
    pruned(network, stats, tmp_path / "d.pt", metric="one-sided")
    assert stats.read_bytes() == written
    first = (tmp_path / "a.pt").read_bytes()
    assert (tmp_path / "b.pt").read_bytes() == (tmp_path / "c.pt").read_bytes() == first
    assert (tmp_path / "d.pt").read_bytes() != first


def test_siblings_share_one_array() -> None:
    from rmtcli.calibration.collect import collect

    class Siblings(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = torch.nn.Linear(6, 5), torch.nn.Linear(6, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.q(x) * self.k(x)

    loaded = collect(
        Siblings(), np.ones((4, 6), np.float32), ["q", "k"], lambda m, x: m(x), batch=2
    )
    assert loaded["q"].second is loaded["k"].second


@pytest.fixture(scope="module")
def made(network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Statistics of the network: whole, without gradients, partial, and misshapen."""
    folder = tmp_path_factory.mktemp("statistics")
    for name, options in {"one": {"metric": "one-sided"}, "deep": {}}.items():
        stats = folder / f"{name}.safetensors"
        data = network / "inputs.npz"
        calibration = rmtcli.Calibration(data, stats=stats, **options)  # type: ignore[arg-type]
        budget = Budget("50%")
        rmtcli.prune(network / "deep.pt", budget=budget, calibration=calibration, dry_run=True)
    loaded, origin = read_stats(folder / "deep.safetensors")
    part = {name: loaded[name] for name in ("fc1.weight", "fc2.weight")}
    write_stats(folder / "part.safetensors", ByLayer(part, {}), origin)
    bent = ByLayer(dict(loaded) | {"fc1.weight": moments(0)}, {})
    write_stats(folder / "bent.safetensors", bent, origin)
    return folder


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("mlp.safetensors --stats deep.safetensors", "statistics of another checkpoint than"),
        ("deep.pt --stats deep.safetensors --calib other.npz", "statistics of other data than"),
        ("deep.pt --stats deep.safetensors --activation tanh", "statistics of another network"),
        ("deep.pt --stats one.safetensors", "statistics without gradients: use --metric one-sided"),
        ("deep.pt --stats none.safetensors", "no such file: give inputs with --calib to make it"),
        ("deep.pt --stats none.pt --calib other.npz", "statistics are kept in a .safetensors"),
        ("deep.pt --stats mlp.safetensors", "contains no calibration statistics written by rmtcli"),
        ("deep.pt --stats part.safetensors", "holds no statistics of fc3.weight"),
        ("deep.pt --stats bent.safetensors", "the statistics of fc1.weight do not fit its shape"),
        ("deep.pt --stats deep.safetensors --heal 2", "give inputs with --calib"),
    ],
)
def test_statistics_of_something_else_are_refused(
    tmp_path: Path, rmtcli: Run, arguments: str, line: str, network: Path, made: Path
) -> None:
    for name in ("deep.pt", "other.npz"):
        (tmp_path / name).symlink_to(network / name)
    (tmp_path / "mlp.safetensors").symlink_to(SAMPLES / "mnist_mlp.safetensors")
    for name in ("deep", "one", "part", "bent"):
        (tmp_path / f"{name}.safetensors").symlink_to(made / f"{name}.safetensors")
    before = tree(tmp_path)
    result = rmtcli("prune", *arguments.split(), "--budget", "50%", "-o", "o.pt", cwd=tmp_path)
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.returncode in (1, 2)
    assert tree(tmp_path) == before


def test_the_record_names_its_sources(network: Path, tmp_path: Path) -> None:
    model, data = network / "deep.pt", network / "inputs.npz"
    pruned(network, tmp_path / "s.safetensors", tmp_path / "a.pt", data=data)
    with safe_open(tmp_path / "s.safetensors", "np") as file:
        record = json.loads(file.metadata()[KEY])
    assert record["checkpoint"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert record["data"] == hashlib.sha256(data.read_bytes()).hexdigest()
    planted = SAMPLES / "planted.safetensors"
    with pytest.raises(RmtcliError):
        pruned(network, tmp_path / "s.safetensors", tmp_path / "a.pt", data=planted)
