"""Calibration block by block: in this process, or on a cluster whose workers share a folder."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np

from rmtcli.calibration import ByLayer, Calibration, Folder, Moments, StoredMoments
from rmtcli.calibration.collect import SEED, Start
from rmtcli.calibration.watch import Centres, Totals, Watch
from rmtcli.computing import Cluster
from rmtcli.evaluation import Harness
from rmtcli.evaluation.outline import Outline
from rmtcli.layers import Layer
from rmtcli.running.by_layer import Collected
from rmtcli.running.calibrate import STARTS, CalibrationInputs, fitted_on, names_of, watch_of
from rmtcli.running.in_chunks import CHUNKS, Work, add_chunks, one_at_a_time
from rmtcli.running.modules import modules_of
from rmtcli.running.passes import Part
from rmtcli.running.states import States
from rmtcli.running.streamed import Stream


def calibrate_in_parts(
    harness: Harness,
    layers: Sequence[Layer],
    settings: Calibration,
    folder: Folder,
    where: tuple[Cluster | None, str],
) -> ByLayer[Moments]:
    """Run the network block by block, and return the moments of each layer.

    Args:
        harness: how the network is built and fed.
        layers: layers of the harness's checkpoint.
        settings: the inputs, and the moments to take.
        folder: takes the moments, and the states if it lasts.
        where: the cluster that runs each part, whose workers reach the folder under the same path,
            or None for this process; and the hash of the checkpoint and of the data.

    Returns:
        Moments by layer name, which are read each time that they are asked for, and why the other
        layers have none.

    Raises:
        UsageError: the disk has too little room, or a worker does not reach the folder.
        EvaluationError: the network does not take the data, or all samples are equal.
        NotInPartsError: it cannot be run block by block.
    """
    cluster, content = where
    work = Work(harness.checkpoint, harness.evaluation, settings, tuple(layers), content)
    run, store = _Run.of(work, harness, folder), StoredMoments(folder)
    stream, model = run.stream, run.outline.model
    folder.reserve(
        stream.room.needed(states=folder.lasting, refines=settings.refines, heals=settings.heals)
    )
    if cluster is None:
        stream.collect(store, partial(stream.add, start=run.start))
    else:
        packed = pickle.dumps((work, folder))
        stream.collect(store, partial(_add_on, cluster, packed, stream))
    return Collected(model, run.modules, store, run.outline).by_layer(harness, layers, settings)


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """A network that is ready to run block by block.

    Attributes:
        outline: the network.
        modules: the modules of each layer.
        stream: runs its parts.
        start: what a backward pass starts from, given the outputs.
    """

    outline: Outline
    modules: Mapping[str, Sequence[str]]
    stream: Stream
    start: Start

    @staticmethod
    def of(work: Work, harness: Harness, folder: Folder) -> _Run:
        """Read the samples, and find the network's blocks."""
        source = CalibrationInputs.read(work.settings, harness)
        outline = Outline(work.checkpoint, harness.task, harness.evaluation.device)
        model = outline.model
        modules = modules_of(model, work.checkpoint, work.layers)
        batch, draws = source.passes(work.settings)
        watch = watch_of(work.checkpoint, model)
        states = States(folder if folder.lasting else None)
        what = outline, fitted_on(source.inputs), names_of(modules), source.run, states
        stream = Stream(*what, batch=batch, draws=draws, watch=watch)
        return _Run(outline, modules, stream, STARTS[source.reading(model).rows])


def _add_on(cluster: Cluster, packed: bytes, stream: Stream, part: Part, watch: Watch) -> None:
    """Run a part on a cluster, and add the sums of its chunks in order."""
    with one_at_a_time():
        centres = stream.centres(part)
    chunks = _chunks(stream)
    before = np.cumsum([0, *map(len, chunks)]).tolist()
    tasks = [
        (packed, _Chunk(part, chunk.tolist(), number, first, centres))
        for number, (chunk, first) in enumerate(zip(chunks, before, strict=False))
    ]
    add_chunks(cluster, _summed, tasks, watch)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some batches that a worker runs a part over.

    Attributes:
        part: the part.
        batches: numbers of the batches.
        number: number of the chunk.
        before: number of batches before them.
        centres: the points from which the spreads of all chunks count.
    """

    part: Part
    batches: list[int]
    number: int
    before: int
    centres: Centres


def _chunks(stream: Stream) -> list[np.ndarray]:
    """The numbers of the batches of each chunk, whatever the number of workers."""
    return np.array_split(np.arange(stream.batches), min(CHUNKS, stream.batches))


def _summed(task: tuple[bytes, _Chunk]) -> Totals:
    """The sums over one chunk, in a worker."""
    packed, chunk = task
    with one_at_a_time():
        run = _opened(packed)
        watch = run.stream.watch(chunk.part)
        watch = replace(watch, centres=chunk.centres, batches=chunk.before)
        only, seed = chunk.batches, SEED + chunk.number
        run.stream.add(chunk.part, watch, start=run.start, batches=only, seed=seed)
        return watch.totals


@lru_cache(maxsize=1)
def _opened(packed: bytes) -> _Run:
    """The network, which a process opens once for all chunks that it gets."""
    work: Work
    work, folder = pickle.loads(packed)
    folder.check()
    return _Run.of(work, work.evaluation.resolve(work.checkpoint), folder)
