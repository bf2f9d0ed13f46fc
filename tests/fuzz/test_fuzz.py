"""A few thousand damaged files, and unusual state dicts."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import rmtcli
from rmtcli.checkpoint import open_checkpoint, write_checkpoint
from rmtcli.errors import RmtcliError
from rmtcli.layers import Selection
from tests.fuzz.mutations import damaged
from tests.fuzz.run import run
from tests.strategies import matrices, state_dicts

ALL = Selection(min_side=0, convolutions=True, recurrent=True)


@pytest.mark.parametrize("seed", [1])
def test_damaged_files_are_read_or_refused(seed: int, tmp_path: Path) -> None:
    """``python -m tests.fuzz --seed 1 --keep FOLDER`` shows what fails, with the files."""
    tally = run(3000, seed=seed)
    assert tally.findings == {}
    assert tally.files == 3000
    assert tally.accepted > 300  # the damage is often slight
    assert sum(tally.refused.values()) > 1000
    assert tally.peak < 1024


@pytest.mark.slow
def test_damaged_files_in_few_bits_are_read_or_refused() -> None:
    tally = run(200_000, seed=2, only="packed")
    assert tally.findings == {}
    assert tally.files == 200_000
    assert tally.accepted > 20_000
    assert sum(tally.refused.values()) > 60_000


@given(st.binary(min_size=1, max_size=300), st.randoms(use_true_random=False))
@example(b"PK\x03\x04 and no archive", Random(1))
def test_any_bytes_can_be_damaged(data: bytes, rng: object) -> None:
    assert isinstance(damaged(data, [data], rng), bytes)  # type: ignore[arg-type]


def refused(error: RmtcliError) -> None:
    """A refusal concerns the input, never the output that was made of it."""
    assert "read back" not in str(error)


def test_writing_and_reading_is_the_identity() -> None:
    """Through a torch file and, where that can hold it, a safetensors file."""
    compared: Counter[str] = Counter()

    @given(state_dicts(), st.booleans())
    @settings(max_examples=150)
    def check(state: dict[str, torch.Tensor], old: bool) -> None:
        with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path, folder = Path(name) / "a.pt", Path(name)
            torch.save(state, path, _use_new_zipfile_serialization=not old)
            try:
                source = open_checkpoint(path)
            except RmtcliError:
                return
            for target in (folder / "b.pt", folder / "b.safetensors"):
                try:
                    write_checkpoint(source, target)
                except RmtcliError as error:
                    refused(error)
                    assert source.opaque or target.suffix == ".pt"
                    continue
                copy = open_checkpoint(target)
                assert copy.infos.keys() == source.infos.keys()
                for key in source.infos:
                    assert copy.infos[key] == source.infos[key]
                    np.testing.assert_array_equal(copy.raw(key).data, source.raw(key).data)
                    compared[target.suffix] += 1

    check()
    assert min(compared[".pt"], compared[".safetensors"]) > 100  # tensors


def test_commands_succeed_or_refuse_the_input() -> None:
    """A pruned layer has a lower rank; every other tensor is unchanged."""
    pruned: Counter[str] = Counter()

    @given(state_dicts(), st.sampled_from(["auto", "rank:k=1", "energy:fraction=0.9"]))
    @settings(max_examples=100)
    def check(state: dict[str, torch.Tensor], keep: str) -> None:
        with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = Path(name) / "a.pt"
            torch.save(state, path)
            try:
                source = open_checkpoint(path)
                rmtcli.analyze(path, selection=ALL)
                report = rmtcli.prune(path, Path(name) / "b.pt", keep=keep, selection=ALL)
            except RmtcliError as error:
                refused(error)
                return
            if not report.pruned:
                return
            copy = open_checkpoint(Path(name) / "b.pt")
            for key in source.infos.keys() & copy.infos.keys():
                np.testing.assert_array_equal(copy.raw(key).data, source.raw(key).data)
            for plan in report.pruned:
                assert 1 <= plan.rank < min(plan.layer.shape)
                pruned[keep] += 1

    check()
    assert pruned.total() >= 3  # layers: most state dicts are refused or have none to prune


def test_the_predicted_error_is_the_error_of_the_stored_factors() -> None:
    """The predicted error is the real one, except for rounding to the layer's type."""
    compared: Counter[torch.dtype] = Counter()

    @given(matrices())
    @settings(max_examples=100)
    def check(w: torch.Tensor) -> None:
        with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = Path(name) / "a.pt"
            torch.save({"a.weight": w, "b.weight": torch.eye(3)}, path)
            chosen = Selection(include=["a.weight"], min_side=0)
            try:
                report = rmtcli.prune(path, Path(name) / "b.pt", keep="rank:k=2", selection=chosen)
            except RmtcliError as error:
                refused(error)
                return
            if not report.pruned:
                return
            state = torch.load(Path(name) / "b.pt")
            product = state["a.1.weight"].double() @ state["a.0.weight"].double()
            exact = w.double()
            error = float((product - exact).norm() / exact.norm())
            # Two factors, each rounded: twice the type's relative step, and as much again for
            # sums. In float64 the rounding of the Gram matrix, of some hundred terms, is larger.
            slack = max(4 * torch.finfo(w.dtype).eps, 1e-13)
            tiny = torch.finfo(w.dtype).smallest_normal
            if exact.abs().max() > 1e3 * tiny:  # smaller numbers have fewer digits
                assert error == pytest.approx(report.pruned[0].relative_error, abs=slack, rel=0.02)
                compared[w.dtype] += 1

    check()
    assert compared.total() >= 10  # matrices
