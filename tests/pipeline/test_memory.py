"""Memory stays near the largest layer, however large the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import rmtcli
from rmtcli.pipeline import fits
from rmtcli.planning import Budget
from tests.conftest import planted

#: Prints the peak of memory, in bytes, above what importing torch and the program takes. The
#: kernel's mark of the process's own pages is set back first; getrusage would also count those of
#: the process that started this one.
PROGRAM = """
import re, sys
import numpy, scipy.linalg, torch, rmtcli, rmtcli.pipeline.prune
import rmtcli.checkpoint.huggingface.write
from rmtcli.planning import Budget
def peak():
    with open("/proc/self/status") as file:
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", file.read())[1])
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = peak()
budget = Budget(sys.argv[3]) if sys.argv[3] else None
keep = "auto" if budget else "rank:k=8"
report = rmtcli.prune(sys.argv[1], sys.argv[2], keep=keep, budget=budget, edge="bema")
assert report.output is not None
print(peak() - before)
"""
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="asks Linux for the peak of memory"
)


def sharded(folder: Path, shards: int, layers: int, side: int) -> int:
    """A model of noise in float32 and four directions a layer; its size in bytes."""
    folder.mkdir()
    places = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        names = [f"h.{i}.{j}.weight" for j in range(layers)]
        rng = np.random.default_rng(i)
        made = {}
        for name in names:
            weight = rng.standard_normal((side, side), dtype=np.float32)
            a, b = rng.standard_normal((2, side, 4), dtype=np.float32)
            made[name] = weight + 0.2 * a @ b.T
        save_file(made, folder / file)
        places |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def peak(source: Path, target: Path, budget: str = "") -> int:
    command = [sys.executable, "-c", PROGRAM, str(source), str(target), budget]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_memory_does_not_grow_with_the_number_of_layers(tmp_path: Path) -> None:
    size = sharded(tmp_path / "m", shards=4, layers=10, side=1024)
    # A layer is 4 MB; its Gram matrix, eigenvectors and LAPACK's workspace are 8 MB each.
    assert peak(tmp_path / "m", tmp_path / "a") < 0.6 * size


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["", "40%"])
def test_a_two_gigabyte_model_is_pruned_in_one_gigabyte(tmp_path: Path, budget: str) -> None:
    size = sharded(tmp_path / "m", shards=5, layers=24, side=2048)
    assert size > 2e9
    used = peak(tmp_path / "m", tmp_path / "a", budget)
    assert used < 2**30, f"{used / 2**20:.0f} MB"


def test_decompositions_that_are_not_held_are_repeated_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {f"a{i}": planted((80, 60), 3, times=4, seed=i) for i in range(3)}
    save_file({f"{name}.weight": w for name, w in weights.items()}, tmp_path / "m.safetensors")
    first = rmtcli.prune(tmp_path / "m.safetensors", tmp_path / "a.pt", budget=Budget("30%"))
    # A layer takes 60·60 vectors and 80·60 weights of 8 bytes: not all three are held.
    monkeypatch.setattr(fits, "HELD_BYTES", 8 * 3 * (60 * 60 + 80 * 60) - 1)
    second = rmtcli.prune(tmp_path / "m.safetensors", tmp_path / "b.pt", budget=Budget("30%"))
    assert len(first.pruned) == 3
    assert first.output is not None
    assert second.output is not None
    assert first.plan == second.plan
    assert first.output.sha256 == second.output.sha256
