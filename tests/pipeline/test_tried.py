"""A result of ``auto`` without data is tried before it is believed."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import rmtcli
from rmtcli.checkpoint import open_checkpoint
from rmtcli.edges import Verdict
from rmtcli.evaluation import Rows
from rmtcli.evaluation.network import build
from rmtcli.keep import Untouched
from rmtcli.pipeline.decide import decide
from rmtcli.pipeline.prepare import prepare
from rmtcli.pipeline.request import Request
from rmtcli.pipeline.tried import _outliers
from rmtcli.planning import Goal
from rmtcli.running.trial import Trial, distance
from tests.conftest import SAMPLES, noise
from tests.integrations.factored import CASES, tokenizer

FIRST, SECOND = (f"encoder.layer.{i}.intermediate.dense.weight" for i in range(2))


def bert(folder: Path, *, words: bool = True) -> Path:
    """A small BERT: one layer whose noise is harmless, and one whose noise does the work."""
    target = folder / "bert"
    CASES["bert"].model().save_pretrained(target)
    if words:
        tokenizer(40).save_pretrained(target)
    tensors = load_file(target / "model.safetensors")
    for seed, (name, size) in enumerate([(FIRST, 1e-4), (SECOND, 0.2)]):
        shape = tuple(tensors[name].shape)
        u, v = (noise((n, 2), seed=seed) for n in shape)
        values = size * noise(shape, seed=seed + 9) + max(0.02, size / 2) * u @ v.T
        tensors[name] = torch.from_numpy(values).float()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_a_layer_that_moves_the_outputs_of_a_directory_is_left_alone(tmp_path: Path) -> None:
    evaluation = rmtcli.Evaluation(task="sentence-embedding")
    report = rmtcli.prune(bert(tmp_path), tmp_path / "small", evaluation=evaluation)
    fates = {plan.layer.name: (plan.rank, plan.untouched) for plan in report.layers}
    assert fates[FIRST] == (2, None)
    assert fates[SECOND] == (32, Untouched.MOVES)
    assert [plan.layer.name for plan in report.pruned] == [FIRST]
    note = next(note for note in report.notes if "tried on random tokens of its vocabulary" in note)
    assert "would change its outputs by more than 0.01" in note
    assert 'as with budget="80%", and give inputs with calibration=' in note
    written, source = (load_file(tmp_path / n / "model.safetensors") for n in ("small", "bert"))
    assert torch.equal(written[SECOND], source[SECOND])
    assert FIRST not in written


def test_a_directory_that_cannot_be_tried_is_left_alone(tmp_path: Path) -> None:
    evaluation = rmtcli.Evaluation(task="sentence-embedding")
    source = bert(tmp_path, words=False)
    report = rmtcli.prune(source, tmp_path / "small", evaluation=evaluation)
    assert report.output is None
    assert not (tmp_path / "small").exists()
    assert {p.untouched for p in report.layers} >= {Untouched.UNTRIED}
    assert any("cannot be tried without data" in n and "calibration=" in n for n in report.notes)
    # Another rule is the user's own choice.
    assert rmtcli.prune(source, keep="edge", dry_run=True).pruned


def test_the_published_result_passes_the_trial() -> None:
    report = rmtcli.prune(SAMPLES / "mnist_mlp.safetensors", dry_run=True)
    assert [(plan.rank, plan.fit.verdict) for plan in report.pruned] == [(56, Verdict.NEAR)]
    assert any("tried on normal noise" in n and "0.3 is accepted" in n for n in report.notes)


def test_a_layer_merely_near_the_law_needs_a_network_that_runs(tmp_path: Path) -> None:
    tensors = load_file(SAMPLES / "mnist_mlp.safetensors")
    save_file(tensors | {"norm.weight": torch.ones(10)}, tmp_path / "a.safetensors")
    report = rmtcli.prune(tmp_path / "a.safetensors", dry_run=True)
    assert report.layers[0].untouched is Untouched.UNTRIED
    assert report.parameters[0] == report.parameters[1]
    assert any("not a plain chain of linear layers" in note for note in report.notes)


class Residual(nn.Module):
    """No chain of layers: its second layer is the harmless one, or the one that does the work."""

    def __init__(self, kind: str = "rows") -> None:
        super().__init__()
        self.kind = kind
        if kind == "images":
            self.first: nn.Module = nn.Conv2d(3, 8, 3)
        else:
            self.first = nn.Linear(64, 64) if kind == "rows" else nn.Embedding(50, 64)
        self.second, self.third = nn.Linear(64, 256), nn.Linear(256, 64)
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.kind == "images":
            x = x[:, :, :8, :8].mean(1).flatten(1)
        if self.kind == "tokens":
            x = x.mean(1)
        return self.head(x + self.third(self.second(x).relu()))


def rows() -> nn.Module:
    return Residual()


def images() -> nn.Module:
    return Residual("images")


def tokens() -> nn.Module:
    return Residual("tokens")


def broken() -> nn.Module:
    """It cannot be run."""
    return nn.ModuleDict(dict(list(Residual().named_children())[1:]))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("rows", "tried on normal noise (seed 0)"),
        ("images", "tried on normal noise of shape 3×32×32 (seed 0)"),
        ("tokens", "tried on random tokens (seed 0)"),
        (
            "broken",
            "cannot be tried without data (tests.pipeline.test_tried:broken: normal noise",
        ),
    ],
)
def test_a_network_that_is_named_is_tried_on_what_its_first_layer_takes(
    kind: str, words: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = globals()[kind]()
    state = model.state_dict()
    for seed, (name, size) in enumerate([("second.weight", 1e-4), ("third.weight", 0.4)]):
        if name in state:
            u, v = (noise((n, 2), seed=seed) for n in state[name].shape)
            values = size * noise(tuple(state[name].shape), seed=seed + 9) + 0.2 * u @ v.T
            state[name] = torch.from_numpy(values).float()
    torch.save(state, tmp_path / "a.pt")
    evaluation = rmtcli.Evaluation(model=f"tests.pipeline.test_tried:{kind}")
    report = rmtcli.prune(tmp_path / "a.pt", evaluation=evaluation, dry_run=True)
    fates = {plan.layer.name: plan.untouched for plan in report.layers}
    assert any(words in note for note in report.notes), report.notes
    if kind == "broken":
        assert fates["second.weight"] is Untouched.UNTRIED
    else:
        assert fates["second.weight"] is None
        assert fates["third.weight"] is Untouched.MOVES


def test_exchanged_modules_give_the_outputs_of_a_network_built_for_them(tmp_path: Path) -> None:
    source = bert(tmp_path)
    harness = rmtcli.Evaluation(task="sentence-embedding").resolve(open_checkpoint(source))
    request = Request(Goal("rank:k=3", None, None))
    prepared = prepare(harness, request)
    result = decide(prepared)

    def without(names: Collection[str]) -> Any:
        return prepared.sparing(result, names, Untouched.MOVES).network

    trial = Trial(harness)
    layers = [plan.layer for plan in result.planned.pruned]
    moves = trial.moves(result.network, layers, without)
    everything = {layer.name for layer in layers}
    for spared in ((), {FIRST}, {SECOND}, everything - {FIRST}, everything, {FIRST}):
        built = trial.move(build(harness, without(set(spared))))
        assert moves(set(spared)) == pytest.approx(built, abs=1e-6)


def outliers(moves: dict[str, float], tensors: dict[str, str] | None = None) -> Any:
    """The layers left alone if moves add up, with at most 1 accepted."""

    def move(spared: Collection[str]) -> float:
        return sum(own for name, own in moves.items() if name not in spared)

    plans: list[Any] = [
        SimpleNamespace(layer=SimpleNamespace(name=name, tensor=(tensors or {}).get(name, name)))
        for name in moves
    ]
    return _outliers(plans, move, 1.0)


@pytest.mark.parametrize(
    ("moves", "spared", "moved"),
    [
        ({"a": 0.4, "b": 0.5}, set(), 0.9),
        ({"a": 2.0}, {"a"}, 0.0),
        ({"a": 2.0, "b": 0.5}, {"a"}, 0.5),
        ({"a": 0.5, "b": 0.75, "c": 0.25}, {"b"}, 0.75),
        ({"a": 3.0, "b": 2.0}, {"a", "b"}, 0.0),
    ],
)
def test_the_layers_that_move_most_are_left_alone(
    moves: dict[str, float], spared: set[str], moved: float
) -> None:
    assert outliers(moves) == (spared, moved)


def test_parts_of_one_tensor_are_left_alone_together() -> None:
    tensors = {"q": "qkv", "k": "qkv", "o": "o"}
    assert outliers({"q": 0.75, "k": 0.5, "o": 0.5}, tensors) == ({"q", "k"}, 0.5)


def test_how_far_outputs_move() -> None:
    rng = np.random.default_rng(0)
    before = rng.standard_normal((50, 4))
    assert distance(before, before + rng.standard_normal((50, 1)), Rows.CLASSES) < 1e-12
    centred = before - before.mean(1, keepdims=True)
    spread = centred - centred.mean(0)
    moved = distance(before, before + 0.3 * spread, Rows.CLASSES)
    assert moved == pytest.approx(0.3)
    assert distance(before, 5 * before, Rows.VECTORS) == pytest.approx(0)
    assert distance(before, -before, Rows.VECTORS) == pytest.approx(2)
    # Of numbers, a constant is a change.
    constant = np.sqrt(50 * 4 * 0.01) / np.linalg.norm(before - before.mean(0))
    assert distance(before, before + 0.1, Rows.VALUES) == pytest.approx(constant)
    assert distance(np.ones((3, 2)), np.ones((3, 2)), Rows.CLASSES) == 0
    assert distance(np.ones((3, 2)), np.eye(3, 2), Rows.CLASSES) == 1
