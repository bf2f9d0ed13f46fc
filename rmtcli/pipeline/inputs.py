"""The files that calibration reads and writes, checked before any work is done."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from rmtcli.calibration import Calibration, Data, files_of
from rmtcli.checkpoint import Openable
from rmtcli.errors import MissingFileError, UsageError
from rmtcli.evaluation import Harness
from rmtcli.evaluation.made import reads_text
from rmtcli.evaluation.text import records_of
from rmtcli.files import as_path, check_target, is_path
from rmtcli.options import option


def check_calibration(settings: Calibration, inputs: list[Path], harness: Harness) -> None:
    """Refuse settings that cannot be carried out, before any work is done or torch is imported.

    Args:
        settings: the settings.
        inputs: the files that the run reads.
        harness: the network that is calibrated.

    Raises:
        UsageError: inputs that do not exist or are of another kind, an option that needs inputs
            without any, or a file of statistics that cannot be written.
        EvaluationError: a file that should hold texts holds none.
    """
    known = settings.stats is not None and Path(settings.stats).exists()
    for file in () if settings.data is None else files_of(settings.data):
        if not file.is_file():
            raise MissingFileError(f"{file}: no such file")
        if harness.pretrained and not known and reads_text(harness.task):
            records_of(file)
    if settings.refines and settings.data is None:
        raise UsageError(
            f"{option('sequential')}, {option('heal')} and {option('heal-minutes')} run the "
            f"network: give inputs with {option('calib')}"
        )
    if settings.spill is not None and settings.data is None and settings.stats is None:
        raise UsageError(
            f"{option('spill')} keeps what a calibration computes: give inputs with "
            f"{option('calib')}, or leave it out"
        )
    if settings.stats is None or known:
        return
    if settings.data is None:
        raise MissingFileError(
            f"{settings.stats}: no such file: give inputs with {option('calib')} to make it"
        )
    if Path(settings.stats).suffix != ".safetensors":
        raise UsageError(f"{settings.stats}: statistics are kept in a .safetensors file")
    others = [path for path in inputs if path != Path(settings.stats)]
    check_target(Path(settings.stats), inputs=others, force=False)


def input_files(
    model: Openable, data: Data | None, calibration: Calibration, plan: object = None
) -> list[Path]:
    """The files and folders that a run reads, which no output may replace.

    Args:
        model: the network, perhaps a path.
        data: the evaluation's data.
        calibration: the settings of the calibration.
        plan: a plan, or its file.
    """
    named = model, plan, calibration.stats, calibration.spill
    paths = [x for x in named if isinstance(x, str) or is_path(x)]
    files = (file for x in (data, calibration.data) if x is not None for file in files_of(x))
    return [*map(as_path, cast("list[str | Path]", paths)), *files]
