"""Networks that run block by block have the moments and the output of those that run whole."""

from __future__ import annotations

import errno
import shutil
import weakref
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")

import rmtcli  # noqa: E402
from rmtcli.calibration import Calibration, Folder, Moments, StoredMoments  # noqa: E402
from rmtcli.calibration.collect import collect  # noqa: E402
from rmtcli.calibration.starts import softmax_root  # noqa: E402
from rmtcli.calibration.watch import Watch  # noqa: E402
from rmtcli.checkpoint import open_checkpoint  # noqa: E402
from rmtcli.errors import CheckpointError, NotInPartsError, UsageError  # noqa: E402
from rmtcli.evaluation import Evaluation, Harness  # noqa: E402
from rmtcli.evaluation.network import build  # noqa: E402
from rmtcli.evaluation.outline import Outline  # noqa: E402
from rmtcli.layers import Layer, Selection, find_layers  # noqa: E402
from rmtcli.pipeline import streaming  # noqa: E402
from rmtcli.running.calibrate import masks_of  # noqa: E402
from rmtcli.running.find_chains import find_chains  # noqa: E402
from rmtcli.running.held_out import HeldOut  # noqa: E402
from rmtcli.running.modules import modules_of  # noqa: E402
from rmtcli.running.refine_in_parts import InParts  # noqa: E402
from rmtcli.running.sequential import RefitStep, Target, refit  # noqa: E402
from rmtcli.running.states import States  # noqa: E402
from rmtcli.running.streamed import Stream  # noqa: E402
from rmtcli.spectra import Factors  # noqa: E402
from tests.running import small  # noqa: E402
from tests.running.small import Killed, directory, half_ranks, run, samples  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def watched(harness: Harness, model: torch.nn.Module) -> list[str]:
    every = find_layers(harness.checkpoint, Selection(embeddings=True, min_side=2))
    modules = modules_of(model, harness.checkpoint, [x for x in every if isinstance(x, Layer)])
    return list(dict.fromkeys(name for names in modules.values() for name in names))


def streamed(harness: Harness, inputs: np.ndarray, states: States, **options: int) -> StoredMoments:
    outline, stored = Outline(harness.checkpoint, harness.task), StoredMoments(Folder())
    names, watch = watched(harness, outline.model), Watch(masks=partial(masks_of, outline.model))
    stream = Stream(outline, inputs, names, run, states, watch=watch, **options)
    stream.collect(stored, partial(stream.add, start=softmax_root))
    return stored


def agree(a: Moments, b: Moments) -> None:
    assert (a.rows, a.samples, a.of_outputs) == (b.rows, b.samples, b.of_outputs)
    pairs = [(getattr(a, x), getattr(b, x)) for x in ("mean", "second", "gradient")]
    pairs += [(a.independent, b.independent), (a.independent_gradients, b.independent_gradients)]
    for whole, parts in pairs:
        assert (whole is None) == (parts is None)
        if whole is not None:
            scale = np.abs(whole).max()
            np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-5 * scale)
    assert (a.fold is None) == (b.fold is None)
    if a.fold is not None and b.fold is not None:
        agree(a.fold, b.fold)


@pytest.mark.parametrize("case", ["bert", "llama", "gpt2", "t5", "vit"])
def test_moments_are_those_of_the_whole_network(case: str, tmp_path: Path) -> None:
    harness, inputs = directory(tmp_path, case), samples(case)
    model = build(harness)
    names, watch = watched(harness, model), Watch(masks=partial(masks_of, model))
    folder = Folder()
    for draws, states in ((0, States()), (1, States(folder)), (2, States())):
        options = {"batch": 3, "draws": draws}
        whole = collect(model, inputs, names, run, start=softmax_root, watch=watch, **options)
        parts = streamed(harness, inputs, states, **options)
        assert set(parts) == set(whole)
        for name, moments in whole.items():
            agree(moments, parts[name])


def test_freed_memory_is_given_back_before_each_batch_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else activations that are freed, and sums that grow, take memory at the same time."""
    events: list[str] = []
    close = Watch.close

    def closed(self: Watch) -> None:
        if self.totals.gradients:
            events.append("closed")
        close(self)

    monkeypatch.setattr(Watch, "close", closed)
    monkeypatch.setattr("rmtcli.running.streamed.give_back", lambda: events.append("given back"))
    streamed(directory(tmp_path, "llama"), samples("llama"), States(), batch=3, draws=1)
    before = [events[i - 1] for i, event in enumerate(events) if event == "closed"]
    assert len(before) >= 2 * 4  # four batches in each of two blocks
    assert set(before) == {"given back"}


def test_the_trial_holds_no_state_but_the_last(tmp_path: Path) -> None:
    """Else its memory grows with the depth."""
    harness = directory(tmp_path, "llama")
    outline = Outline(harness.checkpoint, harness.task)
    states: list[weakref.ref[torch.Tensor]] = []
    for block in outline.model.get_submodule("network.model.layers").children():
        block.register_forward_hook(lambda m, args, output: states.append(weakref.ref(output)))
    held: list[int] = []

    def counted(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        outputs = run(model, inputs)
        held.append(sum(state() is not None for state in states))
        return outputs

    find_chains(outline.model, counted, torch.from_numpy(samples("llama")[:2]), [], outline)
    assert held[0] == 1  # of two, when the whole network has run


def test_an_architecture_without_separate_weights_runs_whole(tmp_path: Path) -> None:
    harness = directory(tmp_path, "mixtral")
    with pytest.raises(NotInPartsError, match="from several tensors"):
        Outline(harness.checkpoint, harness.task)


@pytest.mark.parametrize("case", ["bert", "llama", "gpt2", "t5", "vit"])
def test_a_sequential_fit_is_that_of_the_whole_network(case: str, tmp_path: Path) -> None:
    """The whole networks have products of factors in the place of weights, as those in parts."""
    harness, inputs, folder = directory(tmp_path, case), samples(case), Folder()
    dense, pruned = build(harness), build(harness)
    modules, made = half_ranks(harness, dense, inputs, folder)
    plans, targets = {}, {}
    fitted: dict[str, Factors] = {}

    def put(name: str, factors: Factors) -> None:
        fitted[name] = factors
        for one, other in zip(*(map(x.get_submodule, modules[name]) for x in both), strict=True):
            shape = tuple(other.weight.shape)
            product = plans[name].layer.view.stored(factors.product, shape)
            other.weight.data = torch.from_numpy(product.copy()).float()
            if one.bias is not None:
                other.bias.data = (one.bias.double() + torch.from_numpy(factors.shift)).float()

    both: tuple[Any, Any] = (dense, pruned)
    for plan, maps in made:
        name = plan.layer.name
        plans[name] = plan
        targets[name] = partial(Target, plan.layer.load(), maps.mean is not None, None)
        put(name, maps.factors(plan.rank))
    planned = dict(fitted)
    fitted.clear()
    steps = {n: RefitStep(modules[n], plan.rank, targets[n]) for n, plan in plans.items()}
    how: dict[str, Any] = {"batch": 6, "masks": partial(masks_of, dense)}
    refit(dense, pruned, steps, inputs, run, put, **how)
    pair = InParts(harness, [*plans.values()], folder)
    how["masks"] = partial(masks_of, pair.dense)
    refit(*(pair.dense, pair.pruned, steps, inputs, run, lambda n, f: pair.put(plans[n], f)), **how)
    assert set(fitted) == set(plans)
    for name, plan in plans.items():
        new = fitted[name].product
        np.testing.assert_allclose(
            pair.factors(plan).product, new, atol=1e-4 * np.abs(new).max(), err_msg=name
        )
    torch.testing.assert_close(
        *(run(x, torch.from_numpy(inputs)) for x in (pair.pruned, pruned)), atol=1e-4, rtol=1e-3
    )
    changes = [np.abs(fitted[n].product - planned[n].product).max() for n in plans]
    assert max(changes) > 0.01
    pair.close()


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.text_model(tmp_path_factory.mktemp("streamed"), 64)


def prune(folder: Path, target: Path, **options: Any) -> rmtcli.Report:
    names = ("metric", "stats", "sequential", "heal", "spill")
    own = {name: options.pop(name) for name in names if name in options}
    return small.prune_text_model(folder, target, own, **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"metric": "one-sided"}, {"bits": 4}, {"layout": "pivoted"}, {"sequential": True}],
    ids=["factored", "one-sided", "bits", "pivoted", "sequential"],
)
def test_the_output_is_that_of_the_whole_network(
    options: dict[str, object],
    text_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def tensors(target: str) -> dict[str, np.ndarray]:
        assert not any(
            "as a whole" in x for x in prune(text_model, tmp_path / target, **options).notes
        )
        written = open_checkpoint(tmp_path / target)
        return {name: written.array(name) for name in written.infos}

    # A sequential fit is kept, whatever it does to this network.
    distance = HeldOut.distance
    monkeypatch.setattr(HeldOut, "distance", lambda self, net: 0 * distance(self, net))
    whole = tensors("whole")
    monkeypatch.setattr(streaming, "SHARE", 0.0)
    parts = tensors("parts")
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        np.testing.assert_allclose(parts[name], tensor, atol=1e-4 * np.abs(tensor).max())


def test_an_interrupted_run_goes_on_and_writes_the_same_bytes(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, written, left = Folder.put, 0, -1

    def interrupted(self: Folder, name: str, arrays: dict[str, np.ndarray]) -> None:
        nonlocal written, left
        written, left = written + 1, left - 1
        if left == 0:
            raise Killed
        put(self, name, arrays)

    monkeypatch.setattr(Folder, "put", interrupted)
    prune(text_model, tmp_path / "whole", sequential=True, spill=tmp_path / "a")
    assert list((tmp_path / "a").iterdir()) == []
    whole, written = written, 0
    # While states are computed, blocks run back, and layers are decomposed and fitted again.
    for stop in (whole // 4, whole // 2, whole // 5):
        left = stop
        with pytest.raises(Killed):
            prune(text_model, tmp_path / "parts", sequential=True, spill=tmp_path / "b")
    prune(text_model, tmp_path / "parts", sequential=True, spill=tmp_path / "b")
    assert written < 1.7 * whole  # and not the sum of four runs
    names = [file.name for file in (tmp_path / "whole").glob("*.safetensors")]
    assert names
    for name in names:
        one, other = (tmp_path / folder / name for folder in ("whole", "parts"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stats": "s.safetensors"}, "holds all moments at once"),
        ({"layout": "narrow"}, "hidden layers in the whole network"),
        ({"share_inputs": True}, "compares the moments of all layers"),
    ],
)
def test_what_needs_the_whole_network_excludes_a_folder(
    options: dict[str, object], message: str, text_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        prune(text_model, tmp_path / "out", spill=tmp_path / "a", **options)


def test_a_plan_is_carried_out_with_a_folder(text_model: Path, tmp_path: Path) -> None:
    report = prune(text_model, tmp_path / "first")
    values = {"evaluation": Evaluation(task="causal-lm:length=16"), "plan": report.plan}
    calibration = Calibration(spill=tmp_path / "a")
    model = text_model / "dense"
    again = rmtcli.prune(model, tmp_path / "second", calibration=calibration, **values)
    assert again.calibrated is not None
    assert again.calibrated.settings.spill == tmp_path / "a"
    assert again.readback == report.readback


def test_a_folder_of_another_run_is_refused(text_model: Path, tmp_path: Path) -> None:
    Folder.at(tmp_path / "a", "{}")
    with pytest.raises(UsageError, match="another run"):
        prune(text_model, tmp_path / "out", spill=tmp_path / "a")
    with pytest.raises(UsageError, match="not empty"):
        prune(text_model, tmp_path / "out", spill=text_model)


def test_a_folder_without_calibration_is_refused_and_not_emptied(
    text_model: Path, tmp_path: Path
) -> None:
    Folder.at(tmp_path / "a", "{}")
    with pytest.raises(UsageError, match="keeps what a calibration computes"):
        rmtcli.prune(
            text_model / "dense", tmp_path / "out", calibration=Calibration(spill=tmp_path / "a")
        )
    assert list((tmp_path / "a").iterdir())
    assert not (tmp_path / "out").exists()


def test_a_disk_without_room_is_told_before_anything_is_computed(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    monkeypatch.setattr(Folder, "put", lambda *_: pytest.fail("something was computed"))
    with pytest.raises(UsageError, match="make room"):
        prune(text_model, tmp_path / "out", spill=tmp_path / "a")


def test_a_disk_that_fills_up_is_told_in_one_line(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(CheckpointError, match="goes on from here"):
        prune(text_model, tmp_path / "out", spill=tmp_path / "a")
