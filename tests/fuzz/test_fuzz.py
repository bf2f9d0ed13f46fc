"""A few thousand damaged files, and state dicts that nobody should have saved."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
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


@given(st.binary(min_size=1, max_size=300), st.randoms(use_true_random=False))
def test_damage_takes_any_bytes(data: bytes, rng: object) -> None:
    assert isinstance(damaged(data, [data], rng), bytes)  # type: ignore[arg-type]


def refused(error: RmtcliError) -> None:
    """For what was given, and not for what was made of it."""
    assert "read back" not in str(error)


@given(state_dicts(), st.booleans())
@settings(max_examples=150)
def test_writing_and_reading_is_the_identity(state: dict[str, torch.Tensor], old: bool) -> None:
    """Through a torch file and, where that can hold it, a safetensors file."""
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
            found = open_checkpoint(target)
            assert found.infos.keys() == source.infos.keys()
            for key in source.infos:
                assert found.infos[key] == source.infos[key]
                np.testing.assert_array_equal(found.raw(key).data, source.raw(key).data)


@given(state_dicts(), st.sampled_from(["auto", "rank:k=1", "energy:fraction=0.9"]))
@settings(max_examples=100)
def test_commands_succeed_or_refuse(state: dict[str, torch.Tensor], keep: str) -> None:
    """What is pruned has no layer of a higher rank, and every other tensor as it was."""
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
        found = open_checkpoint(Path(name) / "b.pt")
        for key in source.infos.keys() & found.infos.keys():
            np.testing.assert_array_equal(found.raw(key).data, source.raw(key).data)
        for plan in report.pruned:
            assert 1 <= plan.rank < min(plan.layer.shape)


@given(matrices())
@settings(max_examples=100)
def test_factors_are_no_further_from_the_layer_than_they_say(w: torch.Tensor) -> None:
    """The predicted error is the real one, but for rounding to the layer's type."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(name) / "a.pt"
        torch.save({"a.weight": w, "b.weight": torch.eye(3)}, path)
        selection = Selection(include=["a.weight"], min_side=0)
        try:
            report = rmtcli.prune(path, Path(name) / "b.pt", keep="rank:k=2", selection=selection)
        except RmtcliError as error:
            refused(error)
            return
        if not report.pruned:
            return
        state = torch.load(Path(name) / "b.pt")
        product = state["a.1.weight"].double() @ state["a.0.weight"].double()
        exact = w.double()
        error = float((product - exact).norm() / exact.norm())
        # Two factors, each rounded: twice the type's relative step, and as much again for sums. In
        # float64 those of the Gram matrix, of some hundred terms, weigh more.
        slack = max(4 * torch.finfo(w.dtype).eps, 1e-13)
        tiny = torch.finfo(w.dtype).smallest_normal
        if exact.abs().max() > 1e3 * tiny:  # below it numbers have fewer digits
            assert error == pytest.approx(report.pruned[0].relative_error, abs=slack, rel=0.02)
