"""A Dask cluster computes the same results as this process, and survives the loss of a worker."""

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
from rmtcli.calibration.watch import Totals, Watch
from rmtcli.checkpoint import open_checkpoint
from rmtcli.computing import cluster
from rmtcli.errors import CheckpointError, UsageError
from rmtcli.layers import Layer, Skipped
from rmtcli.planning import Budget
from tests.conftest import SAMPLES, Run, model_directory, planted

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore")  # the cluster warns while it shuts down
MLP = SAMPLES / "mnist_mlp.safetensors"


def local_cluster(workers: int) -> Any:
    return distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        dashboard_address=None,
        silence_logs="CRITICAL",
        protocol="tcp",
    )


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Any]:
    with local_cluster(2) as workers:
        yield workers


def address(workers: Any) -> str:
    return str(workers.scheduler_address).replace("tcp", "dask", 1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with twelve layers in three shards."""
    state = {
        f"encoder.{i}.weight": torch.from_numpy(planted((160, 120), 3, times=3, seed=i)).float()
        for i in range(12)
    }
    return model_directory(tmp_path_factory.mktemp("sharded") / "model", state, shards=3)


@pytest.mark.parametrize("name", ["mnist_mlp.safetensors", "mnist_deep.pt"])
def test_an_analysis_on_the_cluster_gives_the_same_report(two_workers: Any, name: str) -> None:
    local = rmtcli.analyze(SAMPLES / name)
    remote = rmtcli.analyze(SAMPLES / name, executor=address(two_workers))
    assert remote.to_json() == local.to_json()


@pytest.mark.parametrize(
    "options",
    [{"keep": "edge"}, {"budget": Budget("50%"), "calibration": rmtcli.Calibration("none")}],
    ids=["edge", "budget"],
)
def test_pruning_on_the_cluster_writes_the_same_bytes(
    two_workers: Any, directory: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    rmtcli.prune(directory, tmp_path / "local", **options)
    report = rmtcli.prune(directory, tmp_path / "remote", executor=address(two_workers), **options)
    assert len(report.pruned) > 8
    name = "model.safetensors"
    assert (tmp_path / "remote" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


def test_a_second_run_takes_from_the_cache_what_an_interrupted_one_decomposed(
    two_workers: Any, directory: Path, tmp_path: Path
) -> None:
    """The first run is interrupted at the seventh layer, with some results in the cache."""
    kept = tmp_path / "kept"

    def crash(items: Any) -> Iterator[Layer | Skipped]:
        for i, item in enumerate(items):
            if i == 6:
                deadline = time.monotonic() + 60
                while not list(kept.glob("*.spectrum")) and time.monotonic() < deadline:
                    time.sleep(0.1)
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        rmtcli.analyze(directory, executor=address(two_workers), cache=kept, track=crash)
    first = {file: file.stat().st_mtime_ns for file in kept.glob("*.spectrum")}
    assert first
    resumed = rmtcli.analyze(directory, executor=address(two_workers), cache=kept)
    assert len(list(kept.glob("*.spectrum"))) == 12
    assert all(file.stat().st_mtime_ns == written for file, written in first.items())
    assert resumed.to_json() == rmtcli.analyze(directory).to_json()


def test_a_checkpoint_is_pickled_as_its_path(tmp_path: Path) -> None:
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
def test_a_wrong_address_is_an_error(
    text: str, message: str, rmtcli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_TIMEOUT_SECONDS", 1)
    with pytest.raises(UsageError, match=message), cluster.connected(text):
        pass


def test_a_cluster_without_workers_or_with_another_version_is_refused(
    two_workers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with local_cluster(0) as empty, pytest.raises(UsageError, match="has no workers"):
        rmtcli.analyze(MLP, executor=address(empty))
    monkeypatch.setattr(cluster, "__version__", "0.0.0")
    with pytest.raises(UsageError, match=r"a worker has rmtcli .*, not 0\.0\.0"):
        rmtcli.analyze(MLP, executor=address(two_workers))


def test_the_loss_of_a_worker_does_not_change_the_output(
    two_workers: Any, directory: Path, tmp_path: Path
) -> None:
    """The last test of the cluster, which starts another worker meanwhile."""
    killed: list[int] = []

    def killing(items: Any) -> Iterator[Layer | Skipped]:
        for i, item in enumerate(items):
            if i == 4:
                with distributed.Client(two_workers, set_as_default=False) as client:
                    pids = list(client.run(os.getpid).values())
                os.kill(pids[0], signal.SIGKILL)
                killed.append(pids[0])
            yield item

    rmtcli.prune(directory, tmp_path / "local", keep="edge")
    remote = tmp_path / "remote"
    rmtcli.prune(directory, remote, keep="edge", executor=address(two_workers), track=killing)
    assert killed
    name = "model.safetensors"
    assert (tmp_path / "remote" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "kill"), [(2, False), (4, True)])
def test_calibrated_pruning_writes_the_same_bytes_with_any_number_of_workers(
    workers: int, kill: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "budget": Budget("10%"),
        "evaluation": rmtcli.Evaluation(SAMPLES / "mnist.npz"),
    }
    killed: list[int] = []
    merge = Watch.merge

    def merge_and_kill(watch: Watch, totals: Totals) -> None:
        if kill and not killed:
            with distributed.Client(many, set_as_default=False) as client:
                killed.extend(list(client.run(os.getpid).values())[:1])
            os.kill(killed[0], signal.SIGKILL)
        merge(watch, totals)

    outputs = []
    for count in (1, workers):
        with local_cluster(count) as many:
            if count > 1:
                monkeypatch.setattr(Watch, "merge", merge_and_kill)
            output = tmp_path / f"{count}.safetensors"
            rmtcli.prune(SAMPLES / "mnist_deep.pt", output, executor=address(many), **options)
            outputs.append(output.read_bytes())
    assert bool(killed) is kill
    assert outputs[0] == outputs[1]
