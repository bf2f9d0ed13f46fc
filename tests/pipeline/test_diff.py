"""Two checkpoints compared layer by layer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from scipy import stats

import rmtcli as package
from rmtcli.errors import LayerError, UsageError
from rmtcli.report.difference import FIELDS, Figures
from tests.conftest import ROOT, SAMPLES, Run

MLP = SAMPLES / "mnist_mlp.safetensors"


def changed(path: Path, **replaced: np.ndarray) -> Path:
    save_file(load_file(MLP) | replaced, path)
    return path


def test_a_checkpoint_does_not_differ_from_itself(tmp_path: Path) -> None:
    result = package.diff(MLP, MLP)
    assert result.values == {
        "layers.count": 2,
        "layers.changed": 0,
        "layers.missing": 0,
        "change.max": 0.0,
        "change.mean": 0.0,
        "spikes.max": 0,
        "edge.max": 0.0,
        "rank.max": 0,
        "update.spikes": 0,
        "update.new": 0,
    }


def test_figures_against_numpy(tmp_path: Path) -> None:
    """One direction is added, another layer scaled."""
    state = load_file(MLP)
    first, second = state["fc1.weight"].astype(np.float64), state["fc2.weight"]
    rng = np.random.default_rng(0)
    spike = np.outer(rng.standard_normal(1000), rng.standard_normal(784))
    new = (first + 20 * spike / np.linalg.norm(spike)).astype(np.float32)
    other = changed(tmp_path / "b.safetensors", **{"fc1.weight": new, "fc2.weight": 2 * second})
    one, two = package.diff(MLP, other).layers
    assert one.change == pytest.approx(
        np.linalg.norm(first - new) / np.linalg.norm(first), rel=1e-9
    )
    a, b = (np.linalg.svd(w, compute_uv=False) for w in (first, new.astype(np.float64)))
    assert one.spectral == pytest.approx(np.abs(a - b).max() / a[0], rel=1e-6)
    assert one.after.spikes == one.before.spikes + 1
    assert one.after.largest == pytest.approx(b[0], rel=1e-9)
    assert one.after.stable_rank == pytest.approx((b**2).sum() / b[0] ** 2, rel=1e-9)
    assert two.change == pytest.approx(1)
    assert two.after.edge == pytest.approx(2 * two.before.edge, rel=1e-6)
    assert two.after.norm == pytest.approx(2 * two.before.norm, rel=1e-9)


def test_a_difference_prints_shows_and_saves_itself(tmp_path: Path) -> None:
    bias = load_file(MLP)["fc2.weight"]
    other = changed(tmp_path / "b.safetensors", **{"fc2.weight": 2 * bias})
    result = package.diff(MLP, other)
    assert repr(result) == f"<Difference of {MLP} and {other}: 1 of 2 layers changed>"
    assert "1 of 2 layers" in str(result)
    assert "fc2.weight" in result._repr_html_()
    for ending in (".html", ".md", ".json"):
        result.save(tmp_path / f"report{ending}")
        assert "fc2.weight" in (tmp_path / f"report{ending}").read_text()
    with pytest.raises(UsageError, match="its name must end in"):
        result.save(other)


def test_factors_are_compared_by_their_product(tmp_path: Path) -> None:
    small, dense = tmp_path / "small.safetensors", tmp_path / "dense.safetensors"
    report = package.prune(MLP, small)
    package.densify(small, dense)
    (layer, _), (same, _) = (package.diff(MLP, path).layers for path in (small, dense))
    assert layer.after.rank == 56
    assert layer.change == pytest.approx(report.layers[0].relative_error, rel=1e-4)
    assert layer.change == pytest.approx(same.change, rel=1e-6)
    assert package.diff(small, dense).values["change.max"] < 1e-6


def test_layers_that_only_one_checkpoint_holds_are_listed(tmp_path: Path) -> None:
    shorter = load_file(MLP)["fc2.weight"][:, :500].copy()
    other = changed(
        tmp_path / "b.safetensors", **{"fc2.weight": shorter, "fc3.weight": 2 * shorter}
    )
    result = package.diff(MLP, other)
    assert [layer.name for layer in result.layers] == ["fc1.weight"]
    assert result.missing == (("fc2.weight", None), ("fc3.weight", "B"))


def test_checkpoints_without_a_common_layer_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    save_file({"x.weight": np.ones((40, 40), np.float32)}, path)
    with pytest.raises(LayerError, match="have no layer of the same name and shape"):
        package.diff(MLP, path)
    broken = np.full((1000, 784), np.nan, np.float32)
    with pytest.raises(LayerError, match=r"fc1\.weight holds values that are NaN or infinite"):
        package.diff(MLP, changed(tmp_path / "c.safetensors", **{"fc1.weight": broken}))


def test_a_layer_of_zeros(tmp_path: Path) -> None:
    zero = changed(tmp_path / "zero.safetensors", **{"fc1.weight": np.zeros((1000, 784), "f4")})
    for a, b in ((MLP, zero), (zero, MLP)):
        difference = package.diff(a, b)
        json.loads(difference.to_json())
        layer, other = difference.layers
        figures = {side.norm: side for side in (layer.before, layer.after)}
        assert figures[0] == Figures(0, 0, 0, rank=0, sigma=0, edge=0, spikes=0)
        assert figures[max(figures)].spikes == 56
        assert layer.change == 1
        assert other.change == 0
        assert difference.values == {
            "layers.count": 2,
            "layers.changed": 1,
            "layers.missing": 0,
            "change.max": 1,
            "change.mean": 0.5,
            "spikes.max": 56,
            "edge.max": 1,
            "rank.max": 784,
            "update.spikes": 55,
            "update.new": 0 if a == MLP else 55,
        }


def test_the_command(workdir: Path, rmtcli: Run) -> None:
    other = changed(workdir / "b.safetensors", **{"fc2.weight": np.ones((10, 1000), np.float32)})
    report = workdir / "d.html"
    same = rmtcli("diff", MLP, MLP, "--fail-if", "layers.changed > 0", "--report", report)
    assert same.returncode == 0, same.stderr
    assert "changed       0 of 2 layers" in same.stdout
    assert "layers.changed &gt; 0" in report.read_text()
    result = rmtcli("diff", MLP, other, "--json", "--fail-if", "change.max > 0.5")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "fails: change.max > 0.5 (change.max is " in result.stderr
    record = json.loads(result.stdout)
    assert record["totals"]["layers.changed"] == 1
    wrong = rmtcli("diff", MLP, "gone.pt")
    assert wrong.returncode == 2
    assert wrong.stderr == "rmtcli: error: gone.pt: no such file\n"


def test_github_gets_annotations_and_a_summary(
    workdir: Path, rmtcli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(workdir / "summary.md"))
    done = rmtcli("diff", MLP, MLP, "--fail-if", "layers.changed < 1")
    assert done.returncode == 1
    reason = "layers.changed < 1 (layers.changed is 0)"
    assert f"::error title=rmtcli diff::{reason}\n" in done.stderr
    text = (workdir / "summary.md").read_text()
    assert text.startswith("# rmtcli diff: ")
    assert "| fc1.weight | 1000×784 | 0 |" in text
    assert f"**Failed:** {reason}" in text


def test_every_field_is_documented() -> None:
    page = (ROOT / "docs/ci.md").read_text()
    for name, meaning in FIELDS.items():
        assert f"| `{name}` | {meaning} |" in page


def planted(*, own: bool, layers: int = 40) -> list[dict[str, torch.Tensor]]:
    """Networks of layers with four spikes, and three more in the change, of their own or not."""
    rng = np.random.default_rng(0)
    before, after = {}, {}
    for i in range(layers):
        shape = (64, 48) if i % 2 else (48, 64)
        left, right = (np.linalg.qr(rng.standard_normal((m, 7)))[0] for m in shape)
        base = 0.05 * rng.standard_normal(shape) + 3 * left[:, :4] @ right[:, :4].T
        fresh = np.linalg.qr(rng.standard_normal((shape[0], 3)))[0]
        change = (left[:, :3] if own else fresh) @ right[:, 4:].T
        before[f"l{i}.weight"] = torch.from_numpy(base)
        new = base + 0.1 * change + 1e-3 * rng.standard_normal(shape)
        after[f"l{i}.weight"] = torch.from_numpy(new)
    return [before, after]


def test_directions_of_a_change_are_compared_with_random_ones() -> None:
    result = package.diff(*planted(own=False))
    updates = [layer.update for layer in result.layers if layer.update is not None]
    assert [update.spikes for update in updates] == [3] * 40
    p_values = [p for update in updates for p in update.p_values]
    assert stats.kstest(p_values, "uniform").pvalue > 0.001
    assert result.values["update.spikes"] == 120
    # One in a hundred is below 0.01 by chance (P[X > 5 of 120] = 0.2 %).
    assert 115 <= (result.values["update.new"] or 0) <= 120
    for update in updates:
        assert update.sigma == pytest.approx(1e-3, rel=0.1)
        assert update.noise == pytest.approx(64 * 48 * 1e-6 / (3 * 0.1**2), rel=0.2)


def test_directions_that_the_first_network_has_are_not_new() -> None:
    result = package.diff(*planted(own=True, layers=4))
    assert (result.values["update.spikes"], result.values["update.new"]) == (12, 0)
    assert all(p < 1e-6 for layer in result.layers for p in layer.update.p_values)  # type: ignore[union-attr]
    assert "12 spikes above the noise; 0 of them in directions that A does not have" in dict(
        result.summary()
    ).get("B − A", "")
