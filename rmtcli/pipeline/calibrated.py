"""What the layers see: read from a file of moments, or found out by running the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rmtcli.calibration import Calibrated, Calibration, Moments, Origin, read_stats, write_stats
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.checkpoint.hashes import file_sha256
from rmtcli.checkpoint.names import member
from rmtcli.errors import CheckpointError, UsageError
from rmtcli.evaluation import Harness
from rmtcli.files import check_target
from rmtcli.layers import Layer
from rmtcli.planning import LayerCalibration


def check_calibration(settings: Calibration, inputs: list[Path]) -> None:
    """Refuse settings that could not be carried out, before any work is done.

    Raises:
        UsageError: inputs that are not there, none for what needs them, or a place for moments
            that cannot be written.
    """
    if settings.data is not None and not Path(settings.data).is_file():
        raise UsageError(f"{settings.data}: no such file")
    if settings.refines and settings.data is None:
        raise UsageError("--sequential and --heal run the network: give inputs with --calib")
    if settings.stats is None or Path(settings.stats).exists():
        return
    if settings.data is None:
        raise UsageError(f"{settings.stats}: no such file: give inputs with --calib to make it")
    if Path(settings.stats).suffix != ".safetensors":
        raise UsageError(f"{settings.stats}: statistics are kept in a .safetensors file")
    others = [path for path in inputs if path != Path(settings.stats)]
    check_target(Path(settings.stats), inputs=others, force=False)


def calibrated(
    harness: Harness,
    sha256: str,
    layers: Sequence[Layer],
    settings: Calibration,
) -> tuple[dict[str, LayerCalibration], Calibrated]:
    """What each layer sees, by name; a layer that no input reached is missing.

    Args:
        harness: the dense network, and how it is built and fed.
        sha256: hash of its file.
        layers: those to find out about.
        settings: what to run it on, or where to read what was found earlier.

    Raises:
        UsageError: a file of moments that belongs to something else.
        EvaluationError: the network cannot be built, or fed.
    """
    moments = _moments(harness, sha256, layers, settings)
    data = {}
    for layer in layers:
        if layer.name in moments:
            bias = harness.checkpoint.infos.get(member(layer.module, "bias"))
            biased = bias is not None and bias.shape == layer.shape[:1] and bias.dtype in FLOATS
            found = moments[layer.name]
            gradients = settings.gradients and found.gradient is not None
            data[layer.name] = LayerCalibration(found, biased, gradients)
    arrays = {
        id(array): array.nbytes
        for m in moments.values()
        for array in (m.mean, m.second, m.gradient)
        if array is not None
    }
    samples = max((m.samples for m in moments.values()), default=0)
    return data, Calibrated(settings, samples, sum(arrays.values()))


def _moments(
    harness: Harness,
    sha256: str,
    layers: Sequence[Layer],
    settings: Calibration,
) -> Mapping[str, Moments]:
    network = harness.description
    path = None if settings.stats is None else Path(settings.stats)
    data = None if settings.data is None else file_sha256(Path(settings.data))
    if path is None or not path.exists():
        from rmtcli.running.calibrate import calibrate  # needs torch

        assert data is not None
        found = calibrate(harness, layers, settings)
        if path is not None:
            whole = {layer.name: found.get(layer.name) for layer in layers}
            write_stats(path, whole, Origin(sha256, data, settings.gradients, network))
        return found
    moments, origin = read_stats(path)
    if origin.checkpoint != sha256:
        raise UsageError(f"{path}: statistics of another checkpoint than {harness.checkpoint.path}")
    if data not in (None, origin.data):
        raise UsageError(f"{path}: statistics of other data than {settings.data}")
    if origin.network != network:
        raise UsageError(f"{path}: statistics of another network: {origin.network}")
    if settings.gradients and not origin.gradients:
        raise UsageError(f"{path}: statistics without gradients serve --metric one-sided only")
    for layer in layers:
        if layer.name not in moments:
            raise UsageError(f"{path}: holds no statistics of {layer.name}: collect them anew")
        item, (out, inputs) = moments[layer.name], layer.shape
        if item is not None and item.shapes not in (
            ((inputs,), (inputs, inputs), (out, out)),
            ((inputs,), (inputs, inputs), None),
        ):
            raise CheckpointError(f"{path}: the statistics of {layer.name} do not fit its shape")
    return {name: item for name, item in moments.items() if item is not None}
