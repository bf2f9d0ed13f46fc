from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import rmtcli
from rmtcli.checkpoint import RawTensor, open_checkpoint
from rmtcli.checkpoint.safetensors import SafetensorsFile
from rmtcli.errors import LayerError, UsageError
from rmtcli.layers import fingerprint
from rmtcli.planning import Budget
from rmtcli.planning.plan import Untouched
from tests.conftest import noise, planted, tree, with_singular_values

#: With 0.1 as by default, one noise matrix in ten has a spike by chance.
SURE = "select:beta=0.001"


def state() -> dict[str, torch.Tensor]:
    """One layer of each fate under ``auto``."""
    tensors = {
        "a_signal.weight": planted((120, 200), 4, times=4),
        "a_signal.bias": noise((120, 1))[:, 0],
        "b_noise.weight": noise((150, 150), seed=1),
        "c_odd.weight": with_singular_values(np.linspace(1, 1.5, 100)),
        "d_small.weight": planted((40, 15), 2, times=6),
        "e_zero.weight": np.zeros((50, 50)),
        "f_head.weight": noise((10, 100)),
    }
    return {name: torch.from_numpy(value).float() for name, value in tensors.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(state(), tmp_path / "a.safetensors", metadata={"format": "pt"})
    return tmp_path / "a.safetensors"


def test_auto_prunes_what_the_fit_supports_and_nothing_else(file: Path) -> None:
    report = rmtcli.prune(file, edge=SURE)
    fates = {plan.layer.name: (plan.rank, plan.untouched) for plan in report.layers}
    assert fates == {
        "a_signal.weight": (4, None),
        "b_noise.weight": (150, Untouched.NO_SPIKES),
        "c_odd.weight": (100, Untouched.POOR_FIT),
        "d_small.weight": (15, Untouched.TOO_SMALL),
        "f_head.weight": (10, Untouched.HEAD),
    }
    assert [item.name for item in report.skipped] == ["e_zero.weight"]
    written = load_file(file.with_name("a.pruned.safetensors"))
    original = state()
    for name in set(original) - {"a_signal.weight", "a_signal.bias"}:
        assert torch.equal(written[name], original[name])
    assert torch.equal(written["a_signal.1.bias"], original["a_signal.bias"])
    assert written["a_signal.0.weight"].shape == (4, 200)
    assert written["a_signal.1.weight"].shape == (120, 4)
    u, s, vh = torch.linalg.svd(original["a_signal.weight"].double())
    best = (u[:, :4] * s[:4]) @ vh[:4]
    product = written["a_signal.1.weight"].double() @ written["a_signal.0.weight"].double()
    # Factors are rounded to float32: 6e-8 of their size each.
    torch.testing.assert_close(product, best, rtol=0, atol=1e-6 * float(best.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_each_type_keeps_its_type_and_rank(tmp_path: Path, dtype: torch.dtype, ending: str) -> None:
    tensors = {name: value.to(dtype) for name, value in state().items()}
    source = tmp_path / f"a{ending}"
    if ending == ".pt":
        torch.save(tensors, source)
    else:
        save_file(tensors, source)
    report = rmtcli.prune(source, edge=SURE)
    assert [plan.rank for plan in report.pruned] == [4]
    written = open_checkpoint(tmp_path / f"a.pruned{ending}")
    assert {info.dtype for info in written.infos.values()} == {report.layers[0].layer.dtype}


def test_the_report_describes_the_written_file(file: Path) -> None:
    report = rmtcli.prune(file)
    assert report.output is not None
    assert report.parameters == (report.source.parameters, report.output.parameters)
    assert report.source.parameters == sum(t.numel() for t in state().values())
    plan = report.pruned[0]
    written = load_file(report.output.path)
    product = written["a_signal.1.weight"] @ written["a_signal.0.weight"]
    w = state()["a_signal.weight"]
    error = float((w - product).norm() / w.norm())
    assert plan.relative_error == pytest.approx(error, rel=1e-5)  # float32


def test_the_dense_layout_keeps_names_and_shapes(file: Path) -> None:
    report = rmtcli.prune(file, layout="dense", keep="rank:k=90")
    written = load_file(file.with_name("a.pruned.safetensors"))
    assert {n: t.shape for n, t in written.items()} == {n: t.shape for n, t in state().items()}
    assert report.parameters[0] == report.parameters[1]
    # In place, truncation is carried out beyond break-even too; a factored file would grow.
    assert [p.layer.name for p in report.pruned] == [
        "a_signal.weight",
        "b_noise.weight",
        "c_odd.weight",
    ]
    factored = rmtcli.prune(file, keep="rank:k=90", dry_run=True)
    assert {p.untouched for p in factored.layers[:3]} == {Untouched.NOT_SMALLER}


def test_nothing_ever_gets_larger(file: Path) -> None:
    for k in (1, 20, 49, 50, 66, 67, 74, 75, 100):
        report = rmtcli.prune(file, keep=f"rank:k={k}", dry_run=True)
        assert report.parameters[1] <= report.parameters[0]
        for plan in report.pruned:
            assert plan.size < plan.layer.size


def test_a_dry_run_writes_nothing(file: Path) -> None:
    before = tree(file.parent)
    report = rmtcli.prune(file, dry_run=True)
    assert report.output is None
    assert len(report.pruned) == 1
    assert tree(file.parent) == before


def test_where_nothing_can_be_pruned_nothing_is_written(file: Path) -> None:
    before = tree(file.parent)
    report = rmtcli.prune(file, keep="fraction:of=1")
    assert report.output is None
    assert report.pruned == ()
    assert tree(file.parent) == before


def test_the_same_input_gives_the_same_bytes(file: Path) -> None:
    first = rmtcli.prune(file, file.with_name("b.safetensors"))
    second = rmtcli.prune(file, file.with_name("c.safetensors"))
    assert first.output is not None
    assert second.output is not None
    assert first.output.sha256 == second.output.sha256


def test_tied_layers_are_pruned_together(tmp_path: Path) -> None:
    w = torch.from_numpy(planted((120, 120), 4, times=4)).float()
    bias = torch.arange(120.0)
    tensors = {"a.weight": w, "a.bias": bias, "b.weight": w, "b.bias": bias}
    torch.save(tensors | {"head.weight": torch.ones(10, 120)}, tmp_path / "a.pt")
    report = rmtcli.prune(tmp_path / "a.pt")
    written = torch.load(tmp_path / "a.pruned.pt")
    ends = ["0.weight", "1.weight", "1.bias"]
    assert list(written) == [f"{m}.{end}" for m in "ab" for end in ends] + ["head.weight"]
    assert all(written[f"a.{e}"].data_ptr() == written[f"b.{e}"].data_ptr() for e in ends)
    assert report.output is not None
    assert report.parameters == (120 * 120 + 120 + 1200, 4 * 240 + 120 + 1200)
    assert report.output.parameters == report.parameters[1]


def test_a_tied_layer_stored_twice_counts_twice(tmp_path: Path) -> None:
    w = torch.from_numpy(planted((120, 120), 4, times=4)).float()
    tensors = {"a.weight": w, "b.weight": w.clone(), "head.weight": torch.ones(10, 120)}
    save_file(tensors, tmp_path / "a.safetensors")
    report = rmtcli.prune(tmp_path / "a.safetensors")
    assert len(report.pruned) == 1
    assert report.parameters == (2 * 120 * 120 + 1200, 2 * 4 * 240 + 1200)
    assert report.output is not None
    assert report.output.parameters == report.parameters[1]


def test_a_layer_whose_factor_names_are_taken_is_left_alone(tmp_path: Path) -> None:
    w = torch.from_numpy(planted((120, 120), 4, times=4)).float()
    tensors = {"a.weight": w, "a.0.weight": w + 1, "head.weight": torch.ones(10, 120)}
    torch.save(tensors, tmp_path / "a.pt")
    report = rmtcli.prune(tmp_path / "a.pt", keep="rank:k=4")
    assert {p.layer.name: p.untouched for p in report.layers} == {
        "a.weight": Untouched.NAME_TAKEN,
        "a.0.weight": None,
        "head.weight": Untouched.HEAD,
    }


def test_a_pruned_file_is_not_pruned_twice(file: Path) -> None:
    rmtcli.prune(file)
    again = rmtcli.analyze(file.with_name("a.pruned.safetensors"))
    reasons = {item.name: item.reason.name for item in again.skipped}
    assert reasons["a_signal.0.weight"] == "FACTOR"
    assert reasons["a_signal.1.weight"] == "FACTOR"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_stop_prune_but_not_analyze(file: Path, value: float) -> None:
    tensors = state()
    tensors["b_noise.weight"][3, 4] = value
    save_file(tensors, file)
    before = tree(file.parent)
    with pytest.raises(LayerError, match=r"b_noise\.weight holds values that are NaN or infinite"):
        rmtcli.prune(file)
    assert tree(file.parent) == before
    assert "b_noise.weight" in {item.name for item in rmtcli.analyze(file).skipped}
    selection = rmtcli.Selection(exclude=["b_noise.weight"])
    assert rmtcli.prune(file, selection=selection).output is not None


def test_a_product_beyond_the_range_of_its_type_is_reported(tmp_path: Path) -> None:
    # Rank 1 of entries at the end of float16's range lies beyond it in places.
    rng = np.random.default_rng(0)
    w = torch.from_numpy(6.5e4 * np.sign(rng.standard_normal((64, 64)))).half()
    w[0], w[:, 0] = 6.5e4, 6.5e4
    tensors = {"a.weight": w, "z.weight": torch.ones(10, 64).half()}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(LayerError, match=r"a\.weight: a value is beyond the range of float16"):
        rmtcli.prune(tmp_path / "a.safetensors", keep="rank:k=60", layout="dense")
    assert not (tmp_path / "a.pruned.safetensors").exists()


def test_factors_share_a_large_norm(tmp_path: Path) -> None:
    # The strongest direction alone is larger than any float16, although no entry is.
    w = torch.full((64, 64), 6.0e4, dtype=torch.float16)
    w[::2] = -6.0e4
    w[0, 0] = 1
    tensors = {"a.weight": w, "head.weight": torch.ones(10, 64).half()}
    save_file(tensors, tmp_path / "a.safetensors")
    report = rmtcli.prune(tmp_path / "a.safetensors", keep="rank:k=1")
    # Shared evenly, each factor holds only the root of it.
    written = load_file(tmp_path / "a.pruned.safetensors")
    assert report.output is not None
    assert float(written["a.0.weight"].abs().max()) < 1e3


def test_wrong_requests_are_reported(file: Path) -> None:
    for options, message in [
        ({"layout": "sparse"}, "unknown layout 'sparse': choose one of factored, pivoted, dense"),
        ({"edge": "ben"}, "unknown edge estimator 'ben'"),
        ({"keep": "most"}, "unknown keep rule 'most'"),
        ({"output": file}, "is an input"),
        ({"output": file.with_name("a.txt")}, "not a checkpoint by its name"),
    ]:
        before = tree(file.parent)
        with pytest.raises(UsageError, match=message):
            rmtcli.prune(file, **options)
        assert tree(file.parent) == before
    with pytest.raises(UsageError, match="nothing to evaluate on"):
        rmtcli.evaluate(file, evaluation=rmtcli.Evaluation())
    save_file({"a": torch.ones(3)}, file)
    with pytest.raises(LayerError, match="no fully connected layers among 1 tensors"):
        rmtcli.analyze(file)


def test_safetensors_are_pruned_without_torch(file: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, rmtcli; rmtcli.analyze(sys.argv[1]); rmtcli.prune(sys.argv[1]); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)


def test_the_record_of_a_second_pruning_keeps_the_first(tmp_path: Path) -> None:
    from tests.conftest import SAMPLES

    one, two, dense = (tmp_path / f"{n}.pt" for n in ("one", "two", "dense"))
    selection = rmtcli.Selection(include=["fc1.weight"])
    first = rmtcli.prune(SAMPLES / "mnist_deep.pt", one, selection=selection)
    evaluation = rmtcli.Evaluation(SAMPLES / "mnist.npz")
    selection = rmtcli.Selection(include=["fc2.weight"])
    report = rmtcli.prune(one, two, selection=selection, evaluation=evaluation)
    manifest = open_checkpoint(two).manifest
    assert manifest is not None
    assert manifest.factored == {"fc1": first.pruned[0].rank, "fc2": report.pruned[0].rank}
    assert report.comparison is not None
    assert report.comparison.after.accuracy == pytest.approx(94.5, abs=1.5)
    rmtcli.densify(two, dense)
    assert set(open_checkpoint(dense).infos) == set(
        open_checkpoint(SAMPLES / "mnist_deep.pt").infos
    )


@pytest.mark.parametrize("keep", ["energy:fraction=0", "fraction:of=0", "hard-threshold"])
def test_a_rank_of_zero_does_not_delete_a_layer(file: Path, keep: str) -> None:
    report = rmtcli.prune(file, keep=keep, dry_run=True)
    assert {p.layer.name: p.untouched for p in report.layers}["b_noise.weight"] is Untouched.NO_RANK


@pytest.mark.parametrize("scale", [1e160, 1e-200])
def test_values_whose_squares_leave_float64_are_skipped(tmp_path: Path, scale: float) -> None:
    tensors = {"a.weight": torch.randn(64, 64).double() * scale, "b.weight": torch.randn(64, 64)}
    torch.save(tensors, tmp_path / "a.pt")
    assert [item.reason.name for item in rmtcli.analyze(tmp_path / "a.pt").skipped] == ["RANGE"]


def test_equal_biases_with_separate_storage_stay_separate(tmp_path: Path) -> None:
    w = [torch.from_numpy(planted((120, 120), 4, times=4, seed=s)).float() for s in (0, 9)]
    tensors = {"a.weight": w[0], "a.bias": torch.zeros(120), "b.weight": w[1]}
    tensors |= {"b.bias": torch.zeros(120), "head.weight": torch.ones(10, 120)}
    save_file(tensors, tmp_path / "a.safetensors")
    report = rmtcli.prune(tmp_path / "a.safetensors", tmp_path / "b.pt")
    result = torch.load(tmp_path / "b.pt")
    assert result["a.1.bias"].data_ptr() != result["b.1.bias"].data_ptr()
    assert report.parameters[1] == sum(t.numel() for t in result.values())


def test_reports_count_the_network_that_was_written(tmp_path: Path) -> None:
    w = torch.from_numpy(planted((120, 120), 4, times=4)).float()
    torch.save(
        {"a.weight": w, "b.weight": w, "head.weight": torch.ones(10, 120)}, tmp_path / "a.pt"
    )
    report = rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.safetensors")
    stored = load_file(tmp_path / "b.safetensors").values()
    assert report.parameters[1] == sum(x.numel() for x in stored) == 4 * 240 + 1200
    report = rmtcli.densify(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    stored = load_file(tmp_path / "c.safetensors").values()
    after = report.to_dict()["parameters"]["after"]
    assert after == sum(x.numel() for x in stored) == 120 * 120 + 1200


def test_metadata_that_a_torch_file_cannot_hold_is_listed(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "a.safetensors", metadata={"format": "pt", "truth": "precious"})
    report = rmtcli.prune(tmp_path / "a.safetensors", tmp_path / "b.pt")
    assert any(note.endswith("file cannot hold metadata: truth") for note in report.notes)


@pytest.mark.parametrize("options", [{}, {"budget": Budget("60%")}], ids=["rule", "budget"])
def test_a_pruned_layer_is_read_once_to_fit_and_once_to_verify(
    file: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter[str] = Counter()
    read = SafetensorsFile.raw

    def counted(self: SafetensorsFile, name: str) -> RawTensor:
        if self.path == file:
            reads[name] += 1
        return read(self, name)

    monkeypatch.setattr(SafetensorsFile, "raw", counted)
    report = rmtcli.prune(file, **options)
    assert report.pruned
    assert report.plan is not None
    for plan, planned in zip(report.layers, report.plan.layers, strict=True):
        assert planned.sha256 == fingerprint(plan.layer.read())
    pruned = {plan.layer.name for plan in report.pruned}
    assert {reads[name] - 1 for name in pruned} == {2}  # less the read above
