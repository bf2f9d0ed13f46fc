"""Calibration on a cluster: each worker adds up the moments of some chunks of the samples."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from rmtcli.calibration import ByLayer, Calibration, Moments
from rmtcli.calibration.collect import SEED, add_batches, find_centres, watch_for
from rmtcli.calibration.watch import Centres, Totals, Watch
from rmtcli.checkpoint import Checkpoint
from rmtcli.computing import Cluster
from rmtcli.errors import UsageError
from rmtcli.evaluation import Evaluation, Harness
from rmtcli.evaluation.network import build
from rmtcli.layers import Layer
from rmtcli.options import option
from rmtcli.running.by_layer import Collected
from rmtcli.running.calibrate import (
    BATCHES,
    STARTS,
    CalibrationInputs,
    fitted_on,
    names_of,
    watch_of,
)
from rmtcli.running.modules import modules_of, watchable

T = TypeVar("T")

#: Number of chunks, whatever the number of workers, so that sums are made in one order.
CHUNKS = BATCHES
#: Chunks of one process run one after the other: they share the network and its hooks.
_LOCK = Lock()


@dataclass(frozen=True, slots=True)
class Work:
    """What a worker needs to run the network.

    Attributes:
        checkpoint: the network's checkpoint, which a worker opens by its path.
        evaluation: how the network is built and fed.
        settings: the samples, and which moments are taken.
        layers: the layers to calibrate.
        content: hash of the checkpoint and of the data, which may change under their paths.
    """

    checkpoint: Checkpoint
    evaluation: Evaluation
    settings: Calibration
    layers: tuple[Layer, ...]
    content: str


def calibrate_on(
    cluster: Cluster,
    harness: Harness,
    layers: Sequence[Layer],
    settings: Calibration,
    content: str,
) -> ByLayer[Moments]:
    """Moments of each layer, from chunks of the samples that the workers of a cluster run.

    The chunks, the order in which they are added and the random numbers of each do not depend on
    the number of workers, so that the moments have the same bytes with any. A chunk whose worker is
    lost runs on another one.

    Args:
        cluster: its workers reach the checkpoint and the data under the same paths.
        harness: how the network is built and fed.
        layers: layers of the harness's checkpoint.
        settings: the samples, and which moments are taken.
        content: hash of the checkpoint and of the data.

    Raises:
        UsageError: the network is in memory, where no worker can build it.
        EvaluationError: the network does not take the data, or all samples are equal.
    """
    if harness.live is not None or not harness.checkpoint.files:
        raise UsageError(
            f"{option('executor')} calibrates networks that workers can open by a path: this one "
            "is in memory"
        )
    work = Work(harness.checkpoint, harness.evaluation, settings, tuple(layers), content)
    network = _Network.of(work, harness)
    watch = network.watch(work)
    packed, centres = pickle.dumps(work), network.centres(work)
    tasks = [(packed, number, centres) for number in range(len(network.chunks(settings)))]
    add_chunks(cluster, _summed, tasks, watch)
    samples, (_, draws) = len(network.inputs), network.source.passes(settings)
    moments = dict(watch.moments(network.names, samples, draws))
    modules = modules_of(network.model, harness.checkpoint, layers)
    return Collected(network.model, modules, moments).by_layer(harness, layers, settings)


def add_chunks(
    cluster: Cluster, summed: Callable[[T], Totals], tasks: Sequence[T], watch: Watch
) -> None:
    """Add the sums that the workers of a cluster make to those of a watch, in order.

    Args:
        cluster: runs the tasks.
        summed: makes the sums of a chunk.
        tasks: the chunks.
        watch: gets the sums.
    """
    for totals in cluster.in_order(summed, tasks, alone=lambda task: False):
        watch.merge(totals)
        del totals  # before the next ones arrive, which take as much memory


@dataclass(frozen=True, slots=True, eq=False)
class _Network:
    """A network that is ready to be calibrated.

    Attributes:
        source: the samples, and how they are run.
        inputs: the samples that moments are taken of, shape (samples, …).
        model: the network.
        names: the modules that are watched.
    """

    source: CalibrationInputs
    inputs: np.ndarray
    model: nn.Module
    names: list[str]

    @staticmethod
    def of(work: Work, harness: Harness) -> _Network:
        """Read the samples and build the network."""
        source = CalibrationInputs.read(work.settings, harness)
        model = watchable(build(harness), work.layers)
        names = names_of(modules_of(model, harness.checkpoint, work.layers))
        source.reading(model)  # decided before anything is watched, as it may run the network
        return _Network(source, fitted_on(source.inputs), model, names)

    def watch(self, work: Work) -> Watch:
        """What adds up moments, without hooks."""
        watch = watch_of(work.checkpoint, self.model)
        gradients = self.source.passes(work.settings)[1] > 0
        return watch_for(self.model, self.names, replace(watch, gradients=gradients))

    def centres(self, work: Work) -> Centres:
        """The points from which the spreads of all chunks count."""
        first = self.inputs[: self.source.passes(work.settings)[0]]
        with one_at_a_time():
            return find_centres(self.watch(work), self.model, self.names, first, self.source.run)

    def chunks(self, settings: Calibration) -> list[np.ndarray]:
        """The numbers of the first samples of the batches of each chunk."""
        firsts = np.arange(0, len(self.inputs), self.source.passes(settings)[0])
        return np.array_split(firsts, min(CHUNKS, len(firsts)))


def _summed(task: tuple[bytes, int, Centres]) -> Totals:
    """The sums over one chunk, in a worker."""
    packed, number, centres = task
    with one_at_a_time():
        work: Work = pickle.loads(packed)
        network = _opened(packed)
        batch, draws = network.source.passes(work.settings)
        firsts = network.chunks(work.settings)
        before = sum(len(chunk) for chunk in firsts[:number])
        watch = replace(network.watch(work), centres=centres, batches=before)
        start = STARTS[network.source.reading(network.model).rows]
        batches = (network.inputs[first : first + batch] for first in firsts[number])
        what = network.model, network.names, batches, network.source.run
        add_batches(watch, *what, start=start, draws=draws, seed=SEED + number)
        return watch.totals


@lru_cache(maxsize=1)
def _opened(packed: bytes) -> _Network:
    """The network, which a process builds once for all chunks that it gets."""
    work: Work = pickle.loads(packed)
    return _Network.of(work, work.evaluation.resolve(work.checkpoint))


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Run alone in this process, with one thread, so that sums do not depend on its cores."""
    with _LOCK:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
