"""A cluster's workers run the parts of a network over chunks of the batches, in one order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

cloudpickle = pytest.importorskip("cloudpickle")
pytest.importorskip("transformers")

import rmtcli  # noqa: E402
from rmtcli.calibration import ByLayer, Calibration, Folder, Moments  # noqa: E402
from rmtcli.calibration.watch import Totals, Watch  # noqa: E402
from rmtcli.computing import Cluster  # noqa: E402
from rmtcli.errors import UsageError  # noqa: E402
from rmtcli.evaluation import Harness  # noqa: E402
from rmtcli.layers import Layer, Selection, find_layers  # noqa: E402
from rmtcli.running import in_chunks, in_parts  # noqa: E402
from tests.running import small  # noqa: E402
from tests.running.one_by_one import one_by_one  # noqa: E402
from tests.running.small import Killed, directory, samples  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


class Workers(ThreadPoolExecutor):
    """Threads that get copies of all that they are given, and return copies, as processes do."""

    def submit(self, function: Any, /, *args: Any, **options: Any) -> Future[Any]:
        packed = cloudpickle.dumps((function, args, options))

        def work() -> bytes:
            own, arguments, more = cloudpickle.loads(packed)
            return bytes(cloudpickle.dumps(own(*arguments, **more)))

        done = super().submit(work)
        copied: Future[Any] = Future()
        done.add_done_callback(lambda f: _pass_on(f, copied))
        return copied


def _pass_on(done: Future[bytes], copied: Future[Any]) -> None:
    error = done.exception()
    if copied.cancelled():
        return
    if error is None:
        copied.set_result(cloudpickle.loads(done.result()))
    else:
        copied.set_exception(error)


@contextmanager
def workers(count: int) -> Iterator[Cluster]:
    with Workers(count) as executor:
        yield Cluster(executor, count)


def tokens(case: str) -> dict[str, np.ndarray]:
    """Six samples of a network as a tokenizer gives them."""
    ids, mask, *targets = samples(case)[:6].swapaxes(0, 1)
    labels = {"labels": np.where(targets[1], targets[0], -100)} if targets else {}
    return {"input_ids": ids, "attention_mask": mask, **labels}


def moments(
    harness: Harness, inputs: Any, folder: Folder, cluster: Cluster | None, metric: str
) -> tuple[ByLayer[Moments], list[str]]:
    """The moments of a network, and the names of its layers."""
    every = find_layers(harness.checkpoint, Selection(embeddings=True, min_side=2))
    layers = [x for x in every if isinstance(x, Layer) and not x.head]
    settings = Calibration(inputs, metric)
    made = in_parts.calibrate_in_parts(harness, layers, settings, folder, (cluster, "hash"))
    return made, [layer.name for layer in layers if layer.name in made]


def arrays(own: Moments) -> Iterator[np.ndarray]:
    for part in (own, own.fold):
        if part is not None:
            yield part.mean
            yield part.second
            if part.gradient is not None:
                yield part.gradient


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmtcli.running.calibrate.MOST_DRAWS", 1)


@pytest.mark.parametrize(("case", "metric"), [("llama", "one-sided"), ("t5", "two-sided")])
def test_moments_have_the_same_bytes_with_any_number_of_workers(
    case: str, metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With three, each task opens the network again, as on a worker that has run nothing before."""
    harness, inputs = directory(tmp_path / "network", case), tokens(case)
    monkeypatch.setattr(in_parts, "CHUNKS", 2)  # of three batches
    ones = dict.fromkeys(in_parts.STARTS, lambda outputs, generator: torch.ones_like(outputs))
    monkeypatch.setattr(in_parts, "STARTS", ones)
    made = {}
    for count in (0, 1, 3):
        if count > 1:
            monkeypatch.setattr(in_parts, "_opened", in_parts._opened.__wrapped__)
        folder = Folder.at(tmp_path / f"{count}", "{}")
        with workers(max(count, 1)) as cluster:
            where = cluster if count else None
            made[count], names = moments(harness, inputs, folder, where, metric)
    assert len(names) > 4
    for name in names:
        alone, one, three = (made[count][name] for count in made)
        assert [x.tobytes() for x in arrays(one)] == [x.tobytes() for x in arrays(three)]
        assert (alone.rows, alone.samples) == (one.rows, one.samples)
        np.testing.assert_allclose(one.second, alone.second, rtol=1e-5, atol=1e-6)
        assert one.independent == pytest.approx(alone.independent, rel=1e-4)
        assert (one.gradient is None) == (metric == "one-sided")
        if one.gradient is not None and alone.gradient is not None:
            scale = np.abs(alone.gradient).max()
            np.testing.assert_allclose(one.gradient, alone.gradient, rtol=1e-4, atol=1e-5 * scale)


def test_a_single_chunk_gives_the_moments_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its random values are the same, too."""
    monkeypatch.setattr(in_parts, "CHUNKS", 1)
    harness, inputs = directory(tmp_path / "network", "t5"), tokens("t5")
    with in_chunks.one_at_a_time():  # as in a worker, with one thread
        alone, names = moments(harness, inputs, Folder.at(tmp_path / "0", "{}"), None, "two-sided")
    with workers(1) as cluster:
        folder = Folder.at(tmp_path / "1", "{}")
        chunked, _ = moments(harness, inputs, folder, cluster, "two-sided")
    for name in names:
        pairs = zip(arrays(alone[name]), arrays(chunked[name]), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)


def test_sums_of_a_chunk_are_gone_when_the_next_ones_arrive(tmp_path: Path) -> None:
    harness, folder = directory(tmp_path / "network", "llama"), Folder.at(tmp_path / "0", "{}")
    assert moments(harness, tokens("llama"), folder, one_by_one(), "two-sided")[1]


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.text_model(tmp_path_factory.mktemp("streamed"), 24)


def prune(folder: Path, target: Path, spill: Path, executor: str) -> rmtcli.Report:
    own = {"spill": spill}
    return small.prune_text_model(folder, target, own, executor=executor, force=True)


def test_an_interrupted_run_goes_on_and_writes_the_same_bytes(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmtcli.pipeline.prune.connected", lambda count: workers(int(count)))
    report = prune(text_model, tmp_path / "one", tmp_path / "a", "1")
    assert not any("as a whole" in note for note in report.notes)
    assert list((tmp_path / "a").iterdir()) == []
    put, written, left = Folder.put, 0, -1

    def interrupted(self: Folder, name: str, own: Any) -> None:
        nonlocal written, left
        written, left = written + 1, left - 1
        if left == 0:
            raise Killed
        put(self, name, own)

    monkeypatch.setattr(Folder, "put", interrupted)
    prune(text_model, tmp_path / "two", tmp_path / "b", "2")
    whole, written = written, 0
    left = whole // 2
    with pytest.raises(Killed):
        prune(text_model, tmp_path / "two", tmp_path / "b", "2")
    prune(text_model, tmp_path / "two", tmp_path / "b", "2")
    assert written < 1.3 * whole  # and not the sum of two runs
    names = [file.name for file in (tmp_path / "one").glob("*.safetensors")]
    assert names
    for name in names:
        one, other = (tmp_path / folder / name for folder in ("one", "two"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_the_loss_of_a_worker_does_not_change_the_output(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.undo()  # no worker would know of fewer draws
    merge = Watch.merge
    killed: list[int] = []

    def merge_and_kill(watch: Watch, totals: Totals) -> None:
        if not killed:
            with distributed.Client(many, set_as_default=False) as client:
                killed.extend(list(client.run(os.getpid).values())[:1])
            os.kill(killed[0], signal.SIGKILL)
        merge(watch, totals)

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as many:
        monkeypatch.setattr(Watch, "merge", merge_and_kill)
        address = many.scheduler_address.replace("tcp", "dask", 1)
        prune(text_model, tmp_path / "two", tmp_path / "b", address)
    assert killed
    monkeypatch.setattr(Watch, "merge", merge)
    monkeypatch.setattr("rmtcli.pipeline.prune.connected", lambda count: workers(int(count)))
    prune(text_model, tmp_path / "one", tmp_path / "a", "1")
    one, two = (tmp_path / folder / "model.safetensors" for folder in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_a_folder_that_a_worker_does_not_reach_is_told(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmtcli.pipeline.prune.connected", lambda count: workers(int(count)))
    monkeypatch.setattr(Folder, "__setstate__", _elsewhere, raising=False)
    with pytest.raises(UsageError, match="a worker does not find this folder"):
        prune(text_model, tmp_path / "out", tmp_path / "a", "1")


def _elsewhere(self: Folder, state: dict[str, Any]) -> None:
    """Unpickle a folder as on a machine without it."""
    self.__dict__.update(state, path=state["path"] / "elsewhere")
