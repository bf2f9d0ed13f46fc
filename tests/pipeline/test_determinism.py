"""The same input gives the same bytes, whatever the threads, the time and the order of layers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import rmtcli as package
from tests.conftest import DIGITS, SAMPLES

pytest.importorskip("matplotlib")


#: Runs commands one after the other, and writes what each prints to a file.
PROGRAM = """
import contextlib, json, sys
from pathlib import Path
from rmtcli.cli.main import main

for number, words in enumerate(json.loads(sys.argv[1])):
    sys.argv = ["rmtcli", *words]
    with Path(f"stdout.{number}").open("w") as file, contextlib.redirect_stdout(file):
        try:
            main()
        except SystemExit as end:
            assert not end.code
"""


def test_threads_and_time_do_not_change_a_byte(tmp_path: Path) -> None:
    commands = [
        ["prune", str(model), "-o", f"small{model.suffix}", "--force", "--report", *reports]
        for model in (DIGITS / "digits.pt", SAMPLES / "planted.safetensors")
        for reports in ([f"{model.stem}.html", "--plot", model.stem], ["r.md", "--json"])
    ]
    result = []
    for threads, epoch in (("1", "0"), ("2", "1700000000")):  # in a process of its own each
        folder = tmp_path / threads
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-B", "-c", PROGRAM, json.dumps(commands)],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": threads, "SOURCE_DATE_EPOCH": epoch},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        files = (path for path in folder.rglob("*") if path.is_file())
        result.append({path.relative_to(folder): _undated(path.read_bytes()) for path in files})
    assert result[0].keys() == result[1].keys()
    assert len(result[0]) > 2 * len(commands)
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
