"""Calibration: the moments of each layer, read from a file or collected by running the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rmtcli.calibration import (
    CLEANERS,
    NONE,
    ByLayer,
    Calibrated,
    Calibration,
    FileShare,
    Folder,
    GivenInputs,
    Moments,
    OnDemand,
    Origin,
    clean_moments,
    data_sha256,
    is_made,
    parts_of,
    read_stats,
    spelled,
    write_stats,
)
from rmtcli.computing import Cluster
from rmtcli.errors import CheckpointError, UsageError
from rmtcli.evaluation import Harness, Samples
from rmtcli.evaluation.data import has_training_part
from rmtcli.evaluation.made import reads_text
from rmtcli.layers import Layer
from rmtcli.options import option
from rmtcli.pipeline.recipe import Recipe
from rmtcli.planning import LayerCalibration
from rmtcli.report.notes import MADE_OF_NUMBERS, made_by_default

#: Inputs of a directory whose network reads text, where none are given.
DEFAULT = "tokens+prose"
#: The same for a model in memory, of which no tokenizer is known.
WITHOUT_TOKENIZER = "tokens"
#: Said where nothing tells how noisy the moments are.
UNCLEANED = (
    "the moments are used as they are: the statistics do not say how many independent samples they "
    "come from; delete the file to collect them again"
)
#: Percent of the held-out samples that a search within a limit calibrates on, where nothing else is
#: given.
CALIBRATING = 40


def calibration_source(
    calibration: Calibration,
    harness: Harness,
    *,
    joint: bool,
    guarded: bool = False,
) -> Calibration:
    """The settings, with inputs where some are needed and none are given.

    The training part of the data comes first. A search within a limit calibrates on a share of the
    held-out samples, which it does not measure on then. For the network of a Hugging Face directory
    that reads text, texts that are made are next.

    Args:
        calibration: the settings that a user gave.
        harness: the network, and its data.
        joint: whether ranks are decided for all layers at once.
        guarded: whether they are searched for within a limit of what may be lost.

    Raises:
        UsageError: inputs that are made have an option that is unknown or out of range, ``none`` is
            given beside an option that needs inputs, or a directory does not tell what its network
            reads.
    """
    if calibration.data == NONE:
        return _without_inputs(calibration)
    if calibration.data is not None:
        made = is_made(calibration.data)
        return replace(calibration, data=spelled(calibration.data)) if made else calibration
    data, stats = harness.evaluation.data, calibration.stats
    missing = joint if stats is None else not Path(stats).exists()
    if not (missing or calibration.refines):
        return calibration
    if data is not None and has_training_part(data):
        return replace(calibration, data=data)
    if guarded and data is not None:
        whole = data if isinstance(data, GivenInputs) else Path(str(data))
        return replace(calibration, data=FileShare(whole, CALIBRATING))
    if joint and harness.transformers and _reads_text(harness):
        tokenizer = harness.live is None or harness.live.embeds
        harness.note([made_by_default() if tokenizer else MADE_OF_NUMBERS])
        return replace(calibration, data=spelled(DEFAULT if tokenizer else WITHOUT_TOKENIZER))
    return calibration


def measured_on(harness: Harness, calibration: Calibration) -> Samples | None:
    """The held-out samples, less the share of them that calibration has used."""
    samples, data = harness.samples, harness.evaluation.data
    if samples is None or data is None or calibration.data is None:
        return samples
    for part in parts_of(calibration.data):
        if isinstance(part, FileShare) and part.path in (data, Path(str(data))):
            return samples.split(part.percent, 100 - part.percent)[1]
    return samples


def _without_inputs(calibration: Calibration) -> Calibration:
    """The settings without calibration.

    Raises:
        UsageError: other options need inputs.
    """
    if calibration.refines or calibration.stats is not None:
        raise UsageError(
            f"{option('calib', NONE)} uses the weights alone: leave out {option('stats')}, "
            f"{option('sequential')} and {option('heal')}"
        )
    return replace(calibration, data=None)


def _reads_text(harness: Harness) -> bool:
    """Whether a directory's network reads text.

    Raises:
        UsageError: the directory does not tell, or transformers is missing.
    """
    try:
        return reads_text(harness.task)
    except UsageError as error:
        raise UsageError(
            f"{error}; or give {option('calib', NONE)} to decide from the weights alone"
        ) from None


def calibrate_layers(
    harness: Harness,
    sha256: str,
    layers: Sequence[Layer],
    settings: Calibration,
    tables: Sequence[Layer] = (),
    folder: Folder | None = None,
    cluster: Cluster | None = None,
) -> tuple[ByLayer[LayerCalibration], Calibrated]:
    """The calibration of each layer by name, and why other layers have none.

    Args:
        harness: the dense network, and how it is built and fed.
        sha256: hash of its checkpoint.
        layers: the layers to calibrate.
        settings: the inputs to run it on, or the file of statistics to read.
        tables: tables to calibrate too, unless a file of statistics lacks them.
        folder: takes the moments of a network that runs block by block; None to run it whole.
        cluster: its workers run the network, or its blocks, each on some of the samples; None for
            this process.

    Raises:
        UsageError: a file of statistics of another checkpoint, network or data.
        EvaluationError: the network cannot be built or fed.
    """
    raw = _moments(harness, sha256, (layers, tables), settings, folder, cluster)
    if raw and settings.clean != "none" and all(m.independent is None for m in raw.values()):
        harness.note([UNCLEANED])
    every = {layer.name: layer for layer in (*layers, *tables) if layer.name in raw}
    cleaner = CLEANERS.parse(settings.clean)
    recipes = {name: Recipe.of(harness, layer, settings) for name, layer in every.items()}
    if isinstance(raw.results, OnDemand):
        reads = raw.results.makers
        later = {x: partial(own.read, reads[x], cleaner) for x, own in recipes.items()}
        first = [raw[name] for name in list(raw)[:1]]
        return ByLayer(OnDemand(later), raw.missing), Calibrated(settings, *_sizes(first))
    moments = clean_moments(raw, cleaner)
    calibrations = {
        name: own.calibration(moments[name], raw[name]) for name, own in recipes.items()
    }
    return ByLayer(calibrations, raw.missing), Calibrated(settings, *_sizes(raw.values()))


def _sizes(moments: Iterable[Moments]) -> tuple[int, int]:
    """Number of samples, and the memory that moments take."""
    moments = list(moments)
    arrays = {
        id(array): array.nbytes
        for m in (part for m in moments for part in (m, m.fold))
        if m is not None
        for array in (m.mean, m.second, m.gradient)
        if array is not None
    }
    return max((m.samples for m in moments), default=0), sum(arrays.values())


def _moments(
    harness: Harness,
    sha256: str,
    wanted: tuple[Sequence[Layer], Sequence[Layer]],
    settings: Calibration,
    folder: Folder | None,
    cluster: Cluster | None,
) -> ByLayer[Moments]:
    """The moments of each layer, from the file of statistics if it exists; else it is written.

    Tables, which come second, may be missing there.
    """
    path = None if settings.stats is None else Path(settings.stats)
    data = None if settings.data is None else data_sha256(settings.data)
    origin = Origin(sha256, data or "", settings.gradients, harness.origin)
    layers, tables = wanted
    if path is not None and path.exists():
        return _read_moments(path, harness, layers, origin, settings)
    assert data is not None
    every, content = [*layers, *tables], sha256 + data
    if folder is not None:
        from rmtcli.running.in_parts import calibrate_in_parts  # needs torch

        moments = calibrate_in_parts(harness, every, settings, folder, (cluster, content))
    elif cluster is None:
        from rmtcli.running.calibrate import calibrate

        moments = calibrate(harness, every, settings)
    else:
        from rmtcli.running.in_chunks import calibrate_on

        moments = calibrate_on(cluster, harness, every, settings, content)
    if path is not None:
        write_stats(path, moments, origin)
    return moments


def _read_moments(
    path: Path,
    harness: Harness,
    layers: Sequence[Layer],
    wanted: Origin,
    settings: Calibration,
) -> ByLayer[Moments]:
    """The moments in a file of statistics.

    Raises:
        UsageError: they are of another checkpoint, network or data, or lack what is needed.
        CheckpointError: they do not fit the layers.
    """
    moments, origin = read_stats(path)
    if origin.checkpoint != wanted.checkpoint:
        raise UsageError(f"{path}: statistics of another checkpoint than {harness.checkpoint.path}")
    if settings.data is not None and origin.data != wanted.data:
        raise UsageError(f"{path}: statistics of other data than {settings.data}")
    if origin.network != wanted.network:
        raise UsageError(f"{path}: statistics of another network: {origin.network}")
    if wanted.gradients and not origin.gradients:
        raise UsageError(
            f"{path}: statistics without gradients: use {option('metric', 'one-sided')}, or "
            "delete the file to collect them again"
        )
    for layer in layers:
        if layer.name in moments.missing:
            continue
        if layer.name not in moments:
            raise UsageError(
                f"{path}: holds no statistics of {layer.name}: delete the file to collect them "
                "again"
            )
        item, (out, inputs) = moments[layer.name], layer.shape
        width, square = out if item.of_outputs else inputs, (out, out)
        if item.shapes not in [((width,), (width, width), gradient) for gradient in (square, None)]:
            raise CheckpointError(f"{path}: the statistics of {layer.name} do not fit its shape")
    return moments
