"""Healing in few bits block by block: codes change, block by block, and nothing else does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")

import rmtcli  # noqa: E402
from rmtcli.calibration import Calibration  # noqa: E402
from rmtcli.checkpoint import Checkpoint, open_checkpoint  # noqa: E402
from rmtcli.evaluation import Evaluation  # noqa: E402
from rmtcli.layers import Selection  # noqa: E402
from rmtcli.options import option  # noqa: E402
from rmtcli.planning import Budget  # noqa: E402
from rmtcli.running import heal_blocks  # noqa: E402
from rmtcli.running.descent import descend  # noqa: E402
from rmtcli.running.heal_rounded_in_parts import _RoundedBlocks  # noqa: E402
from rmtcli.running.held_out import HeldOut  # noqa: E402
from tests.running.small import TASKS, Killed, killed_at, text_model  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

CASES = ["bert", "llama", "gpt2", "t5", "vit"]


def prune(folder: Path, target: Path, case: str, **calibration: Any) -> rmtcli.Report:
    """Store a network at 60 % of its parameters, in 6 bits."""
    data = folder / "text.txt"
    if case == "vit":
        data = folder / "images.npz"
        rng = np.random.default_rng(0)
        np.savez(data, inputs=rng.standard_normal((96, 3, 16, 16), np.float32))
    return rmtcli.prune(
        folder / "dense",
        target,
        budget=Budget("60%"),
        bits=6,
        selection=Selection(min_side=8),
        calibration=Calibration(data, metric="one-sided", **calibration),
        evaluation=Evaluation(task=TASKS.get(case, "causal-lm:length=16")),
    )


def differing(one: Checkpoint, other: Checkpoint) -> set[str]:
    """The names of the tensors that are not equal in two checkpoints with the same names."""
    assert one.infos == other.infos
    return {x for x in one.infos if not np.array_equal(one.raw(x).data, other.raw(x).data)}


@pytest.mark.parametrize("case", CASES)
def test_codes_and_vectors_of_blocks_are_trained_one_block_at_a_time(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text_model(tmp_path, 64, case)
    prune(tmp_path, tmp_path / "rounded", case, spill=tmp_path / "spill")
    monkeypatch.setattr(heal_blocks, "_SETTLED", 1)
    distances, blocks, train, distance = list[float](), [], _RoundedBlocks.train, HeldOut.distance

    def noted(self: HeldOut, net: torch.nn.Module) -> float:
        distances.append(distance(self, net))
        return distances[-1]

    def observed(self: _RoundedBlocks, block: str, descent: Any) -> None:
        def during(parameters: Sequence[Any], around: Any) -> None:
            named = dict(self.outlines[1].model.named_parameters())
            there = {n for n, p in named.items() if p.ndim > 1 and p.untyped_storage().size() > 4}
            assert there
            assert all(name.startswith(f"{block}.") for name in there)
            assert {n for n, p in named.items() if p.requires_grad} == {
                n for n, p in named.items() if any(p is q for q, _ in parameters)
            }
            assert all(n.startswith(f"{block}.") for n, p in named.items() if p.requires_grad)
            descent(parameters, around)

        blocks.append(block)
        train(self, block, during)
        assert not any(p.requires_grad for p in self.outlines[1].model.parameters())

    monkeypatch.setattr(HeldOut, "distance", noted)
    monkeypatch.setattr(_RoundedBlocks, "train", observed)
    report = prune(tmp_path, tmp_path / "healed", case, heal=20, spill=tmp_path / "spill")
    assert not any(f"{option('heal')} was undone" in note for note in report.notes)
    assert len(set(blocks)) == len(blocks) == (4 if case == "t5" else 2)
    assert distances[-1] < distances[-2]
    rounded, healed = (open_checkpoint(tmp_path / name) for name in ("rounded", "healed"))
    changed = differing(rounded, healed)
    assert changed
    assert all(re.search(r"\.[01]\.", name) for name in changed)
    assert any(healed.infos[name].shape[1:] for name in changed)
    for name in healed.infos:
        before, after = rounded.packed(name), healed.packed(name)
        assert (before is None) == (after is None)
        if before is not None and after is not None:
            assert np.array_equal(before.scales.read().data, after.scales.read().data)


@pytest.mark.parametrize("rate", [30.0, float("nan")])
def test_a_healing_that_ruins_the_network_is_undone(
    rate: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text_model(tmp_path, 24)
    prune(tmp_path, tmp_path / "rounded", "llama", spill=tmp_path / "spill")
    monkeypatch.setattr(heal_blocks, "RATE", rate)
    monkeypatch.setattr(heal_blocks, "_SETTLED", 1)
    report = prune(tmp_path, tmp_path / "healed", "llama", heal=2, spill=tmp_path / "spill")
    assert any(f"{option('heal')} was undone" in note for note in report.notes)
    assert not differing(*(open_checkpoint(tmp_path / name) for name in ("rounded", "healed")))


def test_an_interrupted_healing_begins_again_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed in its second block, after the codes of the first have changed."""
    text_model(tmp_path, 24)
    prune(tmp_path, tmp_path / "whole", "llama", heal=4, spill=tmp_path / "other")
    with monkeypatch.context() as patched:
        patched.setattr(heal_blocks, "descend", killed_at(2, descend))
        with pytest.raises(Killed):
            prune(tmp_path, tmp_path / "parts", "llama", heal=4, spill=tmp_path / "spill")
    prune(tmp_path, tmp_path / "parts", "llama", heal=4, spill=tmp_path / "spill")
    assert not differing(*(open_checkpoint(tmp_path / name) for name in ("whole", "parts")))
