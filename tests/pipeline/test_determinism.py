"""The same input gives the same bytes, whatever the threads, the time and the order of layers."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import rmtcli as package
from tests.conftest import DIGITS, SAMPLES, Run

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("model", [DIGITS / "digits.pt", SAMPLES / "planted.safetensors"])
def test_threads_and_time_do_not_change_a_byte(model: Path, tmp_path: Path, process: Run) -> None:
    result = []
    for threads, epoch in (("1", "0"), ("2", "1700000000")):
        folder = tmp_path / threads
        folder.mkdir()
        environment = os.environ | {"OMP_NUM_THREADS": threads, "SOURCE_DATE_EPOCH": epoch}
        writes = (["r.html", "--plot", "figures"], ["r.md", "--json"])
        for number, reports in enumerate(writes):
            done = process(
                "prune",
                model,
                "-o",
                f"small{model.suffix}",
                "--force",
                "--report",
                *reports,
                cwd=folder,
                env=environment,
            )
            assert done.returncode == 0, done.stderr
            (folder / f"stdout.{number}").write_text(done.stdout)
        files = (path for path in folder.rglob("*") if path.is_file())
        result.append({path.relative_to(folder): _undated(path.read_bytes()) for path in files})
    assert result[0].keys() == result[1].keys()
    assert [path for path, data in result[0].items() if data != result[1][path]] == []


def _undated(data: bytes) -> bytes:
    """A file without the date that a page gives."""
    return re.sub(rb"Made on [\d-]+ ", b"", data)


def test_the_order_of_layers_does_not_change_a_layer(tmp_path: Path) -> None:
    state = load_file(SAMPLES / "planted.safetensors")
    matrices = [name for name in state if name.endswith("weight")]
    renamed = {f"z{9 - i}.weight": state[name] for i, name in enumerate(matrices)}
    save_file(renamed, tmp_path / "a.safetensors")
    save_file({name: state[name] for name in matrices}, tmp_path / "b.safetensors")
    one, other = (package.analyze(tmp_path / f"{name}.safetensors").layers for name in "ab")
    spectra = {plan.layer.name: plan.spectrum.eigenvalues for plan in one}
    assert len(other) == len(matrices)
    for plan in other:
        name = f"z{9 - matrices.index(plan.layer.name)}.weight"
        assert np.array_equal(plan.spectrum.eigenvalues, spectra[name])
