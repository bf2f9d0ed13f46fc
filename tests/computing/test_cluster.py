"""Layers on a Dask cluster give what they give here, and survive the loss of a worker."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import rmtcli
from rmtcli.checkpoint import open_checkpoint
from rmtcli.computing import cluster
from rmtcli.errors import CheckpointError, UsageError
from rmtcli.layers import Layer, Skipped
from rmtcli.planning import Budget
from tests.conftest import SAMPLES, Run, model_directory, planted

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of the cluster's own shutdown
MLP = SAMPLES / "mnist_mlp.safetensors"


def local(workers: int) -> Any:
    return distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        dashboard_address=None,
        silence_logs="CRITICAL",
        protocol="tcp",
    )


@pytest.fixture(scope="module")
def two() -> Iterator[Any]:
    with local(2) as workers:
        yield workers


def address(workers: Any) -> str:
    return str(workers.scheduler_address).replace("tcp", "dask", 1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve layers in three shards."""
    state = {
        f"encoder.{i}.weight": torch.from_numpy(planted((160, 120), 3, times=3, seed=i)).float()
        for i in range(12)
    }
    return model_directory(tmp_path_factory.mktemp("sharded") / "model", state, shards=3)


@pytest.mark.parametrize("name", ["mnist_mlp.safetensors", "mnist_deep.pt"])
def test_an_analysis_is_the_same_there_as_here(two: Any, name: str) -> None:
    here = rmtcli.analyze(SAMPLES / name)
    there = rmtcli.analyze(SAMPLES / name, executor=address(two))
    assert there.to_json() == here.to_json()


@pytest.mark.parametrize("options", [{}, {"budget": Budget("50%")}], ids=str)
def test_a_pruned_directory_has_the_same_bytes(
    two: Any, directory: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    rmtcli.prune(directory, tmp_path / "here", **options)
    report = rmtcli.prune(directory, tmp_path / "there", executor=address(two), **options)
    assert len(report.pruned) > 8
    name = "model.safetensors"
    assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


def test_a_worker_that_is_killed_costs_nothing_but_time(directory: Path, tmp_path: Path) -> None:
    killed: list[int] = []

    def watched(items: Any) -> Iterator[Layer | Skipped]:
        for i, item in enumerate(items):
            if i == 4:
                with distributed.Client(workers, set_as_default=False) as client:
                    pids = list(client.run(os.getpid).values())
                os.kill(pids[0], signal.SIGKILL)
                killed.append(pids[0])
            yield item

    with local(2) as workers:
        rmtcli.prune(directory, tmp_path / "here")
        rmtcli.prune(directory, tmp_path / "there", executor=address(workers), track=watched)
    assert killed
    name = "model.safetensors"
    assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


def test_what_was_decomposed_is_not_decomposed_again(
    two: Any, directory: Path, tmp_path: Path
) -> None:
    """A crash after the sixth layer; the second run finds what the first one had done."""

    def crash(items: Any) -> Iterator[Layer | Skipped]:
        for i, item in enumerate(items):
            if i == 6:
                raise KeyboardInterrupt
            yield item

    kept = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt):
        rmtcli.analyze(directory, executor=address(two), cache=kept, track=crash)
    for _ in range(100):
        first = {file: file.stat().st_mtime_ns for file in kept.glob("*.spectrum")}
        if first:
            break
        time.sleep(0.1)
    found = rmtcli.analyze(directory, executor=address(two), cache=kept)
    assert len(list(kept.glob("*.spectrum"))) == 12
    assert all(file.stat().st_mtime_ns == written for file, written in first.items())
    assert found.to_json() == rmtcli.analyze(directory).to_json()


def test_a_checkpoint_travels_as_its_path(tmp_path: Path) -> None:
    whole = open_checkpoint(MLP)
    sent = pickle.dumps(whole)
    assert len(sent) < 1000
    assert pickle.loads(sent).infos == whole.infos
    other = tmp_path / "a.safetensors"
    other.write_bytes(MLP.read_bytes())
    sent = pickle.dumps(open_checkpoint(other))
    rmtcli.prune(MLP, other, force=True)
    with pytest.raises(CheckpointError, match="not the same file there and here"):
        pickle.loads(sent)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("127.0.0.1:1", "name a Dask scheduler, as dask://host:port"),
        ("ray://a:1", "name a Dask scheduler"),
        ("dask://127.0.0.1:9", "no Dask scheduler answers there"),
    ],
)
def test_where_no_cluster_is(
    text: str, message: str, rmtcli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_PATIENCE", 1)
    with pytest.raises(UsageError, match=message), cluster.connected(text):
        pass


def test_a_cluster_that_cannot_help_says_so(two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with local(0) as empty, pytest.raises(UsageError, match="has no workers"):
        rmtcli.analyze(MLP, executor=address(empty))
    monkeypatch.setattr(cluster, "__version__", "0.0.0")
    with pytest.raises(UsageError, match=r"a worker has rmtcli .*, not 0\.0\.0"):
        rmtcli.analyze(MLP, executor=address(two))


def test_nothing_is_calibrated_there(two: Any) -> None:
    with pytest.raises(UsageError, match="from their weights alone"):
        rmtcli.prune(
            SAMPLES / "mnist_deep.pt",
            budget=Budget("10%"),
            evaluation=rmtcli.Evaluation(SAMPLES / "mnist.npz"),
            executor=address(two),
            dry_run=True,
        )
