"""Helpers of many tests: matrices with known structure, and small checkpoints."""

from __future__ import annotations

import compileall
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

# Several test processes share the cores: an idle thread must not keep one busy. OpenMP reads this
# when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pytest
import torch
from hypothesis import settings
from safetensors.torch import save_file
from threadpoolctl import threadpool_limits

import tests.warm
from rmtcli.computing import cores
from rmtcli.planning import Timing

if TYPE_CHECKING:
    from tests.sandbox import Sandbox

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_models"
#: A network and data that cost a tenth of the sample models.
DIGITS = Path(__file__).parent / "samples"

settings.register_profile("rmtcli", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("rmtcli")


def pytest_configure(config: pytest.Config) -> None:
    """Compile the package once: processes of the tests would do it again, if they may not write."""
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(ROOT / "rmtcli", quiet=2)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Share the whole suite among the cores; tests that are named run here, without workers."""
    return cores() if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


@pytest.fixture(scope="session", autouse=True)
def _threads() -> Iterator[None]:
    """Compute two layers at once on any machine, and matrices of the tests with one BLAS thread.

    BLAS threads of several processes that share the cores would wait for each other.
    """
    with threadpool_limits(1, "blas"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("rmtcli.computing.here.cores", lambda: 2)
        yield


def noise(shape: tuple[int, int], sigma: float = 1.0, seed: int = 0) -> np.ndarray:
    """A matrix of independent Gaussian entries."""
    return sigma * np.random.default_rng(seed).standard_normal(shape)


def with_singular_values(singular: np.ndarray) -> np.ndarray:
    """A matrix with these singular values and random vectors."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((len(singular),) * 2))[0] for _ in range(2))
    return left * singular @ right


def planted(
    shape: tuple[int, int], rank: int, *, times: float, sigma: float = 1.0, seed: int = 0
) -> np.ndarray:
    """Noise plus ``rank`` equal directions, ``times`` the detection limit sigma (n p)^(1/4)."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.standard_normal((shape[0], rank)))[0]
    right = np.linalg.qr(rng.standard_normal((shape[1], rank)))[0]
    strength = times * sigma * (shape[0] * shape[1]) ** 0.25
    return noise(shape, sigma, seed + 1) + strength * left @ right.T


@pytest.fixture(scope="session")
def samples() -> Path:
    return SAMPLES


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh working directory that holds the sample models."""
    (tmp_path / "sample_models").mkdir()
    for file in SAMPLES.iterdir():
        if file.suffix in (".safetensors", ".pt", ".npz") and ".pruned" not in file.name:
            shutil.copy(file, tmp_path / "sample_models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def process() -> Run:
    """Run the program as a user does, in a new process, with its output in a pipe."""

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-B", "-m", "rmtcli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]

    return run


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """Run the program in forks of one process, which take a tenth of the time of ``process``."""
    from tests.sandbox import Sandbox  # needs Linux

    with Sandbox() as started:
        yield started


@pytest.fixture(scope="session")
def rmtcli(request: pytest.FixtureRequest) -> Run:
    """Run the program as :func:`process` does, in the sandbox where the system has one."""
    if sys.platform != "linux":
        return cast("Run", request.getfixturevalue("process"))
    sandbox: Sandbox = request.getfixturevalue("sandbox")

    def run(
        *arguments: object, cwd: Path | None = None, env: Mapping[str, str] = os.environ
    ) -> subprocess.CompletedProcess[str]:
        words = [str(argument) for argument in arguments]
        where = cwd or Path.cwd()
        outcome = sandbox.run(*words, cwd=where, env=dict(env), patience=600)
        return subprocess.CompletedProcess(words, outcome.code, outcome.stdout, outcome.stderr)

    return run


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``verify`` start processes that have imported transformers already, where it can fork."""
    if sys.platform == "linux":
        instead = SimpleNamespace(run=tests.warm.run)
        monkeypatch.setattr("rmtcli.verification.parent.subprocess", instead)


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make timings independent of the machine: a layer takes 1 s, its factors 0.1 s or more."""

    def times(runs: Sequence[object], device: str) -> list[Timing]:
        seconds = [1.0, *(0.1 * (1 + i) for i in range(len(runs) - 1))]
        return [Timing(median, 0.9 * median, 1.2 * median) for median in seconds]

    monkeypatch.setattr("rmtcli.running.clock.timed", times)


def tree(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder, which a failed command must not change."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def model_directory(
    folder: Path,
    state: dict[str, torch.Tensor],
    config: dict[str, object] | None = None,
    *,
    shards: int = 1,
    container: str = "safetensors",
) -> Path:
    """Write a directory as transformers does, with the weights in ``shards`` files."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "bert"}))
    (folder / "tokenizer.json").write_text("{}")
    stem = "model" if container == "safetensors" else "pytorch_model"
    names, weight_map = list(state), {}
    for i in range(shards):
        part = {name: state[name] for name in names[i::shards]}
        numbered = f"{stem}-{i + 1:05}-of-{shards:05}.{container}"
        file = numbered if shards > 1 else f"{stem}.{container}"
        if container == "safetensors":
            save_file(part, folder / file, metadata={"format": "pt"})
        else:
            torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    if shards > 1:
        index = json.dumps({"metadata": {}, "weight_map": weight_map})
        (folder / f"{stem}.{container}.index.json").write_text(index)
    return folder
