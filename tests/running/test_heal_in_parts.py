"""Healing block by block: one block is trained at a time, and the network gets better by it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")

import rmtcli  # noqa: E402
from rmtcli.calibration import Calibration, Folder  # noqa: E402
from rmtcli.evaluation import Evaluation  # noqa: E402
from rmtcli.evaluation.network import build  # noqa: E402
from rmtcli.layers import Selection  # noqa: E402
from rmtcli.options import option  # noqa: E402
from rmtcli.pipeline import streaming  # noqa: E402
from rmtcli.planning import (  # noqa: E402
    Budget,
    LayerPlan,
)
from rmtcli.running import heal_blocks  # noqa: E402
from rmtcli.running.descent import Extent, descend  # noqa: E402
from rmtcli.running.heal_in_parts import TrainedFactors  # noqa: E402
from rmtcli.running.held_out import HeldOut  # noqa: E402
from rmtcli.running.refine_in_parts import InParts  # noqa: E402
from rmtcli.running.states import States  # noqa: E402
from tests.running import small  # noqa: E402
from tests.running.small import (  # noqa: E402
    Killed,
    directory,
    half_ranks,
    killed_at,
    run,
    samples,
)

pytestmark = pytest.mark.filterwarnings("ignore")


@dataclass
class Planned:
    """A network with planned factors of half the rank, and what heals it."""

    pair: InParts
    plans: list[LayerPlan]
    heal: Callable[[int], None]


def planned(folder: Path, case: str) -> Planned:
    harness, inputs, files = directory(folder, case), samples(case), Folder()
    plans = [plan for plan, _ in half_ranks(harness, build(harness), inputs, files)[1]]
    pair = InParts(harness, plans, files)
    source = cast(Any, SimpleNamespace(run=run, task=SimpleNamespace(batch=8)))
    held_out = cast(HeldOut, SimpleNamespace(inputs=inputs))

    def heal(passes: int) -> None:
        factors = TrainedFactors(pair, plans)
        healing = heal_blocks.Healing(factors, source, held_out, States(files))
        healing.run(Extent(passes, 0), time.monotonic())

    return Planned(pair, plans, heal)


@torch.no_grad()
def distance(pair: InParts, inputs: np.ndarray) -> float:
    dense, pruned = (run(x, torch.from_numpy(inputs)) for x in (pair.dense, pair.pruned))
    return float(torch.dist(dense, pruned))


@pytest.mark.parametrize("case", ["bert", "llama", "gpt2", "t5", "vit"])
def test_healing_by_blocks_brings_a_network_closer_to_the_dense_one(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heal_blocks, "_SETTLED", 1)
    made = planned(tmp_path, case)
    before = distance(made.pair, samples(case))
    old = {plan.layer.name: made.pair.factors(plan).product for plan in made.plans}
    made.heal(40)
    assert distance(made.pair, samples(case)) < 0.9 * before
    inside = [plan for plan in made.plans if ".0." in plan.layer.name or ".1." in plan.layer.name]
    for plan in inside:
        assert not np.array_equal(made.pair.factors(plan).product, old[plan.layer.name])
    made.pair.close()


@pytest.mark.parametrize("case", ["bert", "llama", "t5"])
def test_one_block_is_trained_and_in_memory_at_a_time(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = planned(tmp_path, case)
    pair, put = made.pair, InParts.put
    blocks: list[set[str]] = []

    def block(name: str) -> list[str]:
        return re.findall(r"^.*?\.\d+\.", name)

    def real(model: torch.nn.Module) -> set[str]:
        """The blocks of which a matrix is in memory; others are one value in a large shape."""
        own = {n for n, p in model.named_parameters() if p.ndim > 1 and p.stride() != (0,) * p.ndim}
        return {x for name in own for x in block(name)}

    def trained(parameters: Sequence[Any], *rest: Any) -> None:
        blocks.append(set())
        assert all(p.requires_grad for p, _ in parameters)
        assert not any(p.requires_grad for p in pair.pruned.parameters())
        assert len(real(pair.pruned)) == 1
        assert real(pair.dense) == set()
        old = {p.layer.name: pair.factors(p).product for p in made.plans}
        descend(parameters, *rest)
        for plan in made.plans:
            np.testing.assert_array_equal(pair.factors(plan).product, old[plan.layer.name])

    def noted(self: InParts, plan: LayerPlan, factors: Any) -> None:
        blocks[-1].update(block(pair.modules[plan.layer.name][0]))
        put(self, plan, factors)

    monkeypatch.setattr(heal_blocks, "descend", trained)
    monkeypatch.setattr(InParts, "put", noted)
    made.heal(1)
    assert len(blocks) == (4 if case == "t5" else 2)
    assert all(len(some) == 1 for some in blocks)
    assert len(set.union(*blocks)) == len(blocks)
    made.pair.close()


def test_values_that_are_not_finite_are_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = planned(tmp_path, "bert")
    old = {plan.layer.name: made.pair.factors(plan).product for plan in made.plans}
    monkeypatch.setattr(heal_blocks, "RATE", float("nan"))
    made.heal(1)
    for plan in made.plans:
        np.testing.assert_array_equal(made.pair.factors(plan).product, old[plan.layer.name])
    made.pair.close()


@pytest.fixture(scope="module", params=["bert", "llama"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.text_model(tmp_path_factory.mktemp(request.param), 64, request.param)


def prune(folder: Path, target: Path, **options: Any) -> rmtcli.Report:
    task = "sentence-embedding" if folder.name.startswith("bert") else "causal-lm:length=16"
    names = ("sequential", "heal", "heal_minutes", "spill")
    own = {name: options.pop(name) for name in names if name in options}
    values = {
        "calibration": Calibration(folder / "text.txt", **own),
        "selection": Selection(min_side=8),
        "evaluation": Evaluation(task=task),
        **options,
    }
    return rmtcli.prune(folder / "dense", target, budget=Budget("60%"), **values)


def weights(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.glob("*.safetensors")))


@pytest.mark.parametrize(
    "options",
    [{}, {"layout": "pivoted", "sequential": True}, {"bits": 4}, {"layout": "pivoted", "bits": 4}],
    ids=str,
)
def test_a_healed_network_differs_less_on_inputs_held_out(
    options: dict[str, Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heal_blocks, "_SETTLED", 1)
    distances: list[float] = []
    plain = HeldOut.distance

    def noted(self: HeldOut, net: torch.nn.Module) -> float:
        distances.append(plain(self, net))
        return distances[-1]

    monkeypatch.setattr(HeldOut, "distance", noted)
    for name in ("a", "b"):
        spill = tmp_path / f"spill-{name}"
        report = prune(model, tmp_path / name, heal=20, spill=spill, **options)
        undone = f"{option('heal')} was undone"
        assert not any(undone in note or "as a whole" in note for note in report.notes)
        assert list(spill.iterdir()) == []
    assert distances[-1] < distances[-2]
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_an_interrupted_healing_begins_again_and_gives_the_same_bytes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed in its second block, whose factors the first has already replaced."""
    options = {"heal": 4, "sequential": True}
    prune(model, tmp_path / "whole", spill=tmp_path / "other", **options)
    with monkeypatch.context() as patched:
        patched.setattr(heal_blocks, "descend", killed_at(2, descend))
        with pytest.raises(Killed):
            prune(model, tmp_path / "parts", spill=tmp_path / "spill", **options)
    assert not (tmp_path / "parts").exists()
    prune(model, tmp_path / "parts", spill=tmp_path / "spill", **options)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_a_healing_that_does_not_help_is_undone(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heal_blocks, "_SETTLED", 1)
    monkeypatch.setattr(heal_blocks, "RATE", 30.0)  # ruins the network
    report = prune(model, tmp_path / "a", heal=2, spill=tmp_path / "spill")
    assert any(f"{option('heal')} was undone" in note for note in report.notes)
    prune(model, tmp_path / "b", spill=tmp_path / "spill")
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_time_is_divided_among_the_blocks(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extents: list[float] = []
    monkeypatch.setattr(heal_blocks, "descend", lambda *x: extents.append(x[4].extent.minutes))
    now = iter(np.arange(0.0, 60.0, 0.01))
    clock = SimpleNamespace(monotonic=lambda: float(next(now)))
    monkeypatch.setattr(heal_blocks, "time", clock)
    prune(model, tmp_path / "a", heal_minutes=1, spill=tmp_path / "spill")
    assert len(extents) == 2
    assert all(0.45 < minutes <= 1 for minutes in extents)


def test_a_network_is_healed_as_a_whole_where_memory_suffices(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "SHARE", 0.0)
    notes = prune(model, tmp_path / "a", heal=1).notes
    assert any("as a whole" in note and option("spill") in note for note in notes)
    monkeypatch.setattr(streaming, "HEALED", 0.0)
    notes = prune(model, tmp_path / "b", heal=1).notes
    assert not any("as a whole" in note for note in notes)


@pytest.mark.parametrize("options", [{}, {"sequential": True}, {"heal": 1}], ids=str)
def test_the_room_that_is_reserved_is_enough_and_not_much_more(
    options: dict[str, Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers that are stored with each layer do not count: here they are as large as moments."""
    sizes: dict[Path, int] = {}
    reserved, peaks = [0], [0]
    put = Folder.put

    def noted(self: Folder, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        put(self, name, arrays)
        sizes[self._file(name)] = sum(
            x.nbytes for x in map(np.asarray, arrays.values()) if x.ndim > 1 or x.size > 99
        )
        peaks.append(sum(size for file, size in list(sizes.items()) if file.exists()))

    monkeypatch.setattr(Folder, "put", noted)
    monkeypatch.setattr(Folder, "reserve", lambda _, size: reserved.append(size))
    prune(model, tmp_path / "a", spill=tmp_path / "spill", **options)
    assert max(peaks) <= reserved[-1] <= 1.3 * max(peaks)
