"""Networks in few bits: written, read, scored, multiplied out and refused."""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rmtcli
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import UsageError
from rmtcli.planning import Budget, Matrices, round_matrices
from rmtcli.quantization import Grid, Rounded
from rmtcli.report.base import Report
from tests.conftest import DIGITS

MODEL, DATA = DIGITS / "digits.pt", DIGITS / "digits.npz"
WIDTHS = (196, 192, 192, 192, 96, 10)


def network() -> nn.Module:
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (inputs, outputs) in enumerate(itertools.pairwise(WIDTHS), start=1):
        modules[f"fc{i}"] = nn.Linear(inputs, outputs)
        modules[f"relu{i}"] = nn.ReLU()
    return nn.Sequential(modules).eval()


@pytest.fixture(scope="module", params=["factored", "pivoted"])
def small(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Report]:
    """A tenth of the parameters in four bits, and the report."""
    target = tmp_path_factory.mktemp("bits") / "small.pt"
    report = rmtcli.prune(
        MODEL,
        target,
        budget=Budget("10%"),
        bits=4,
        layout=request.param,
        evaluation=rmtcli.Evaluation(DATA),
    )
    return target, report


def test_the_report_counts_what_the_file_holds(small: tuple[Path, Report]) -> None:
    target, report = small
    written = open_checkpoint(target)
    before, after = report.tensor_bytes
    assert (before, after) == (4 * report.parameters[0], written.bytes)
    # Half a byte and a 32nd for scales; vectors and orders stay, and rows fill up whole words.
    vectors = sum(4 * x.size for x in written.infos.values() if len(x.shape) == 1)
    assert after < 0.6 * report.parameters[1] + vectors + 5_000
    assert report.to_dict()["options"]["bits"] == 4


def test_the_scores_are_those_of_the_written_network(small: tuple[Path, Report]) -> None:
    target, report = small
    scores = rmtcli.evaluate(target, evaluation=rmtcli.Evaluation(DATA)).comparison
    assert scores is not None
    assert report.comparison is not None
    assert scores.after.accuracy == report.comparison.after.accuracy


def test_a_loaded_network_equals_the_densified_one(
    small: tuple[Path, Report], tmp_path: Path
) -> None:
    target, _ = small
    rmtcli.densify(target, tmp_path / "dense.safetensors")
    dense = open_checkpoint(tmp_path / "dense.safetensors")
    assert not any(map(dense.packed, dense.infos))
    x = torch.rand(8, 196)
    with torch.no_grad():
        first, second = (rmtcli.load(network(), file)(x) for file in (target, dense.path))
    assert torch.allclose(first, second, rtol=1e-4, atol=1e-4)


def test_error_feedback_keeps_the_outputs_nearer(tmp_path: Path) -> None:
    """Every layer in three bits, with and without the moments of its inputs."""
    images = np.load(DATA)["inputs"][:500].reshape(500, 196) / np.float32(255)
    outputs = []
    for name, calibration in (("near", None), ("fed", rmtcli.Calibration(DATA))):
        target = tmp_path / f"{name}.safetensors"
        report = rmtcli.prune(
            MODEL, target, keep="fraction:of=1.0", bits=3, calibration=calibration
        )
        assert not report.pruned
        assert ("without data" in " ".join(report.notes)) == (calibration is None)
        with torch.no_grad():
            outputs.append(rmtcli.load(network(), target)(torch.from_numpy(images)))
    with torch.no_grad():
        dense = rmtcli.load(network(), MODEL)(torch.from_numpy(images))
    near, fed = (float((x - dense).square().mean()) for x in outputs)
    assert fed < 0.5 * near


@pytest.mark.parametrize("layout", ["narrow", "auto"])
def test_narrower_layers_are_rounded_with_feedback(layout: str, tmp_path: Path) -> None:
    """Their moments are those of the units that stay, and their losses grow by the rounding."""
    options = {"budget": Budget("30%"), "layout": layout, "dry_run": True}
    given = {"calibration": rmtcli.Calibration(DATA), "evaluation": rmtcli.Evaluation(DATA)}
    whole, few = (rmtcli.prune(MODEL, bits=bits, **options, **given) for bits in (None, 3))
    assert any(plan.narrowed for plan in few.layers)
    for before, after in zip(whole.layers, few.layers, strict=True):
        rounded = after.layer.shape[0] > 10
        assert after.bits == 3
        if rounded:
            assert after.predicted_loss is not None
            assert (before.predicted_loss or 0) < after.predicted_loss < 0.2
    assert few.comparison is not None
    assert whole.comparison is not None
    assert few.comparison.after.accuracy > whole.comparison.after.accuracy - 0.5


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shared = torch.randn(40, 64)
    tensors = {"a.weight": shared, "b.weight": torch.randn(48, 40)}
    torch.save(tensors | {"c.weight": shared}, tmp_path / "a.pt")
    rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.pt", keep="fraction:of=1.0", bits=8)
    written = open_checkpoint(tmp_path / "b.pt")
    assert dict(written.aliases) == {"c.weight": "a.weight"}
    assert np.array_equal(written.array("a.weight"), written.array("c.weight"))


def test_small_matrices_and_vectors_stay_as_they_are(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.randn(64, 64), "b.weight": torch.randn(20, 31), "c": torch.ones(5)}
    save_file(tensors, tmp_path / "a.safetensors")
    rmtcli.prune(tmp_path / "a.safetensors", tmp_path / "b.pt", keep="fraction:of=1.0", bits=8)
    written = open_checkpoint(tmp_path / "b.pt")
    assert [name for name in written.infos if written.packed(name)] == ["a.weight"]
    assert np.array_equal(written.array("b.weight"), tensors["b.weight"].numpy())


def test_a_pruned_network_can_be_rounded_later(small: tuple[Path, Report], tmp_path: Path) -> None:
    """Tensors that are not touched stay packed; with other bits, all are rounded once more."""
    target, _ = small
    report = rmtcli.prune(target, tmp_path / "b.pt", keep="fraction:of=1.0", bits=3)
    assert report.tensor_bytes[1] < open_checkpoint(target).bytes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 7}, "bits= is auto, none or one of 8, 6, 5, 4, 3, 2, not 7"),
        ({"bits": "few"}, "bits= is auto, none or one of"),
        ({"bits": "auto"}, r'give Budget\(…, "bytes"\) or max_drop='),
        ({"bits": "auto", "budget": Budget("10%")}, r'give Budget\(…, "bytes"\) or max_drop='),
        (
            {"bits": "auto", "budget": Budget("10%", "bytes"), "share_inputs": True},
            "leave out share_inputs=",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        rmtcli.prune(MODEL, tmp_path / "b.pt", **options)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """2.5 % of the bytes, with bits that the budget chooses, and the report."""
    target = tmp_path_factory.mktemp("chosen") / "few.safetensors"
    options = {"budget": Budget("2.5%", "bytes"), "evaluation": rmtcli.Evaluation(DATA)}
    return target, rmtcli.prune(MODEL, target, **options)


def test_a_budget_of_bytes_is_met_and_used(chosen: tuple[Path, Report]) -> None:
    target, report = chosen
    written = open_checkpoint(target)
    dense, size = report.tensor_bytes
    assert size == written.bytes == sum(map(written.nbytes, written.distinct))
    assert 0.024 * dense < size <= 0.025 * dense
    few = [plan for plan in report.layers if plan.bits is not None]
    assert len({plan.bits for plan in few}) > 1
    assert any(plan.ranked for plan in few)
    assert any('bits="none"' in note for note in report.notes)
    assert report.to_dict()["options"]["bits"] == "auto"
    assert [x["bits"] for x in report.to_dict()["layers"]] == [x.bits for x in report.layers]


def test_ranks_and_bits_together_beat_each_alone(chosen: tuple[Path, Report]) -> None:
    """At equal bytes: types as they are, and every matrix in eight bits."""
    _, report = chosen
    options = {"budget": Budget("2.5%", "bytes"), "evaluation": rmtcli.Evaluation(DATA)}
    for bits in ("none", 8):
        other = rmtcli.prune(MODEL, bits=bits, dry_run=True, **options)
        assert other.tensor_bytes[1] <= 0.025 * other.tensor_bytes[0]
        assert other.comparison is not None
        assert report.comparison is not None
        assert report.comparison.divergence < other.comparison.divergence
    assert report.comparison.drop < 1


def test_a_torch_file_keeps_its_types_unless_it_is_asked_for(tmp_path: Path) -> None:
    options = {"budget": Budget("20%", "bytes"), "dry_run": True}
    kept, asked = (rmtcli.prune(MODEL, bits=bits, **options) for bits in (None, "auto"))
    assert kept.bits is None
    assert any("load_state_dict reads no weights in few bits" in note for note in kept.notes)
    assert asked.bits == "auto"
    assert not any("load_state_dict" in note for note in asked.notes)
    assert {plan.bits for plan in asked.layers} == {8}  # there are no data
    assert any("fewer than 8 bits" in note for note in asked.notes)


def test_a_limit_on_the_loss_chooses_bits(tmp_path: Path) -> None:
    report = rmtcli.prune(
        MODEL, max_drop=0.5, bits="auto", evaluation=rmtcli.Evaluation(DATA), dry_run=True
    )
    assert report.guard is not None
    assert report.tensor_bytes[1] < 0.04 * report.tensor_bytes[0]


def test_a_weight_is_not_rounded_twice_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tensors are those of a run that rounds each matrix once, by a plan."""
    rounded: list[tuple[int, int]] = []

    def counted(before: Matrices, grid: Grid, *rest: Any) -> list[Rounded]:
        rounded.append((len(before.parts), grid.bits))
        return round_matrices(before, grid, *rest)

    monkeypatch.setattr("rmtcli.pipeline.rounding.round_matrices", counted)
    given = {"calibration": rmtcli.Calibration(DATA)}
    targets = [tmp_path / f"{i}.safetensors" for i in range(2)]
    report = rmtcli.prune(MODEL, targets[0], budget=Budget("12%", "bytes"), **given)
    assert any(plan.bits == 4 and not plan.ranked for plan in report.layers)
    assert (1, 4) not in rounded
    rmtcli.prune(MODEL, targets[1], plan=report.plan, **given)
    assert (1, 4) in rounded
    first, second = (load_file(target) for target in targets)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("layout", ["narrow", "auto"])
def test_widths_and_bits_share_a_budget_of_bytes(tmp_path: Path, layout: str) -> None:
    target = tmp_path / "few.safetensors"
    report = rmtcli.prune(
        MODEL,
        target,
        layout=layout,
        budget=Budget("3%", "bytes"),
        evaluation=rmtcli.Evaluation(DATA),
    )
    assert any(plan.narrowed for plan in report.layers)
    dense, size = report.tensor_bytes
    assert size == open_checkpoint(target).bytes
    assert 0.027 * dense < size <= 0.03 * dense
    assert report.comparison is not None
    assert report.comparison.drop < 2


def test_weights_can_stay_in_few_bits_in_memory(small: tuple[Path, Report], tmp_path: Path) -> None:
    """The same outputs as with weights that were computed on loading, in less memory."""
    target, _ = small
    whole, packed = rmtcli.load(network(), target), rmtcli.load(network(), target, packed=True)
    x = torch.rand(8, 196)
    with torch.no_grad():
        assert torch.equal(packed(x), whole(x))
    note = next(note for note in small[1].notes if "packed=True" in note)
    kept, computed = (sum(t.nbytes for t in m.state_dict().values()) for m in (packed, whole))
    shapes = 16 * sum(open_checkpoint(target).packed(x) is not None for x in whole.state_dict())
    assert kept + shapes == open_checkpoint(target).bytes
    assert kept < 0.4 * computed
    assert f"take {computed:,} bytes of memory, and {kept + shapes:,} with" in note
    with pytest.raises(UsageError, match="without packed=True"):
        rmtcli.save(packed, tmp_path / "again.pt")


def test_tied_and_transposed_weights_stay_in_few_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(50, 40), nn.Linear(40, 50)
            self.head.weight = self.table.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.table(x))

    torch.save(Tied().state_dict(), tmp_path / "a.pt")
    rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.pt", keep="fraction:of=1.0", bits=5)
    packed = rmtcli.load(Tied(), tmp_path / "b.pt", packed=True)
    assert packed.table.parametrizations.weight[0] is packed.head.parametrizations.weight[0]
    x = torch.arange(9)
    assert torch.equal(packed(x), rmtcli.load(Tied(), tmp_path / "b.pt")(x))


def test_the_four_totals_are_those_by_hand(tmp_path: Path) -> None:
    """Two layers of rank 4 in 4 bits, with biases in 32."""
    tensors = {"0.weight": torch.randn(48, 64), "0.bias": torch.randn(48)}
    tensors |= {"2.weight": torch.randn(40, 48), "2.bias": torch.randn(40)}
    save_file(tensors, tmp_path / "a.safetensors")
    target = tmp_path / "b.safetensors"
    report = rmtcli.prune(
        tmp_path / "a.safetensors",
        target,
        keep="rank:k=4",
        bits=4,
        selection=rmtcli.Selection(min_side=0, include=["0.weight", "2.weight"]),
        batches=[2],
    )
    dense, biases = 48 * 64 + 40 * 48, 48 + 40
    factors = 4 * (64 + 48) + 4 * (48 + 40)
    assert report.parameters == (dense + biases, factors + biases)
    # Each of the 4 rows has half a byte per code and a scale of 2 bytes; a shape has 16 bytes.
    rows = sum(4 * (side // 2 + 2) + 16 for side in (64, 48, 48, 40))
    assert report.tensor_bytes == (4 * (dense + biases), rows + 4 * biases)
    macs = [layer["macs_per_position"] for layer in report.to_dict()["layers"]]
    assert sum(change["before"] for change in macs) == dense
    assert sum(change["after"] for change in macs) == factors
    (latency,) = report.latency
    assert latency.layers.keys() == {"0.weight", "2.weight"}
    assert all(timing.median > 0 for timing in latency.total)


def test_healing_in_few_bits_brings_the_outputs_nearer(tmp_path: Path) -> None:
    """The scales and the bytes stay."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32))
    x = torch.randn(2_000, 64)
    inputs = {"inputs": x.numpy()}
    np.savez(tmp_path / "x.npz", **inputs)
    save_file(dense.state_dict(), tmp_path / "a.safetensors")
    distances, sizes, networks = [], [], []
    for heal in (0, 20):
        target = tmp_path / f"{heal}.safetensors"
        calibration = rmtcli.Calibration(tmp_path / "x.npz", heal=heal)
        report = rmtcli.prune(
            tmp_path / "a.safetensors",
            target,
            keep="fraction:of=1.0",
            bits=2,
            calibration=calibration,
            evaluation=rmtcli.Evaluation(tmp_path / "x.npz"),
        )
        assert not any("undone" in note for note in report.notes)
        networks.append(open_checkpoint(target))
        sizes.append(networks[-1].bytes)
        loaded = rmtcli.load(copy.deepcopy(dense), target)
        with torch.no_grad():
            distances.append(float((loaded(x) - dense(x)).square().mean()))
    assert distances[1] < 0.95 * distances[0]
    assert sizes[0] == sizes[1]
    before, after = (network.packed("0.weight") for network in networks)
    assert before is not None
    assert after is not None
    assert np.array_equal(before.scales.read().data, after.scales.read().data)
