"""``--layout auto``: narrower hidden layers and layers of lower rank under one budget."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import rmtcli
import rmtcli.integrations.transformers
from rmtcli import Calibration, Evaluation, prune
from rmtcli.layers import Layer
from rmtcli.layouts import Factored, Layout, Narrow, Pivoted
from rmtcli.planning import Budget, Times
from rmtcli.report.table import table
from tests.evaluation.test_tasks import TASKED, data_for, directory
from tests.pipeline.test_narrow import chain, data, mlp  # noqa: F401  data is a fixture

SIZES = (60, 60, 40)


@pytest.mark.parametrize(
    ("budget", "options"),
    [
        (Budget("25%"), {}),
        (Budget("25%", "bytes"), {"rank_multiple": 4}),
        (Budget("25%", "macs"), {"calibration": {"sequential": True, "heal": 1}}),
    ],
    ids=["parameters", "bytes", "macs"],
)
def test_a_chain_gets_narrower_and_lower_ranks(
    tmp_path: Path,
    data: Path,  # noqa: F811
    budget: Budget,
    options: dict[str, object],
) -> None:
    source, target = chain(tmp_path, data, *SIZES), tmp_path / "small.safetensors"
    settings = options.pop("calibration", {})
    report = prune(
        source,
        target,
        layout="auto",
        bits="none",
        budget=budget,
        evaluation=Evaluation(data),
        calibration=Calibration(data, **settings),
        **options,
    )
    sizes = {"parameters": report.parameters, "bytes": report.tensor_bytes}
    macs = sum(p.layer.size for p in report.layers), sum(p.macs for p in report.layers)
    before, after = (sizes | {"macs": macs})[budget.unit]
    assert 0.8 * 0.25 * before < after <= 0.25 * before
    both = [plan for plan in report.layers if plan.narrowed is not None and plan.ranked]
    assert both
    multiple = options.get("rank_multiple", 1)
    for plan in both:
        assert plan.rank % multiple == 0
        assert {side % multiple for side in plan.shape} <= {0, plan.layer.shape[1] % multiple}
        assert plan.predicted_loss is not None
        assert 0 < plan.predicted_loss < 1
    # The dense module takes the file, and gives what was measured.
    loaded = rmtcli.load(mlp([20, *SIZES, 4]), target).eval()
    arrays = np.load(data)
    with torch.no_grad():
        classes = loaded(torch.from_numpy(arrays["inputs"])).argmax(1).numpy()
    assert report.comparison is not None
    accuracy = 100 * float(np.mean(classes == arrays["targets"]))
    assert accuracy == pytest.approx(report.comparison.after.accuracy)
    assert sum(p.numel() for p in loaded.parameters()) == report.parameters[1]


def test_the_report_names_each_layers_layout(tmp_path: Path, data: Path) -> None:  # noqa: F811
    target = tmp_path / "small.safetensors"
    report = prune(
        chain(tmp_path, data, *SIZES),
        target,
        layout="auto",
        budget=Budget("25%"),
        evaluation=Evaluation(data),
    )
    rows = {row[0]: row for row in table(report)[1]}
    for plan in report.layers:
        *_, rank, size, action = rows[plan.layer.name]
        assert action.endswith(", pivoted") == plan.ranked
        assert action.startswith("narrowed to ")
        shape = "×".join(map(str, plan.shape))
        assert rank == (f"{plan.rank} of {min(plan.shape)}" if plan.ranked else shape)
        assert size.endswith(f"{plan.size:,}")
    assert {type(plan.layout) for plan in report.layers} == {Pivoted, Narrow}
    layers = {layer["name"]: layer for layer in json.loads(report.to_json())["layers"]}
    assert {layer["layout"] for layer in layers.values()} == {"pivoted", "narrow"}
    assert any(note.startswith('layout="narrow" gives a network') for note in report.notes)
    assert ("widths and ranks by", "budget 25% of parameters") in rmtcli.info(target).lines
    # Multiplied again, the factors give dense layers of the narrow shapes.
    rmtcli.densify(target, tmp_path / "dense.safetensors")
    state = load_file(tmp_path / "dense.safetensors")
    assert [tuple(state[plan.layer.name].shape) for plan in report.layers] == [
        plan.shape for plan in report.layers
    ]


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize(("slow", "fast"), [(Factored, Pivoted), (Pivoted, Factored)])
def test_a_budget_of_time_takes_the_faster_layout(
    tmp_path: Path,
    data: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    slow: type[Layout],
    fast: type[Layout],
) -> None:
    def times(_: object, layer: Layer, layout: Layout) -> Times:
        step = 1e-6
        return Times(step * layer.size, 0.0, (4 if isinstance(layout, slow) else 1) * step)

    monkeypatch.setattr("rmtcli.running.clock.Clock.times", times)
    report = prune(
        chain(tmp_path, data, *SIZES),
        tmp_path / "small.safetensors",
        layout="auto",
        budget=Budget("40%", "ms"),
        rank_multiple=1,
        batches=[64],
        evaluation=Evaluation(data),
        calibration=Calibration(data),
        dry_run=True,
    )
    ranked = [plan for plan in report.layers if plan.ranked]
    assert ranked
    assert {type(plan.layout) for plan in ranked} == {fast}
    assert report.latency[0].layers.keys() == {plan.layer.name for plan in report.layers}


#: Options beside the layout, and what the note on the widths says.
KEPT: dict[str, tuple[dict[str, object], str]] = {
    "no inputs": ({"budget": Budget("50%")}, "give calibration="),
    "a rule": ({"keep": "rank:k=5"}, "give budget= or max_drop="),
    "sharing": (
        {"budget": Budget("50%"), "share_inputs": True, "calibrated": True},
        "leave out share_inputs=",
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_widths_stay_where_units_cannot_be_chosen(
    case: str,
    tmp_path: Path,
    data: Path,  # noqa: F811
) -> None:
    given, words = KEPT[case]
    options = dict(given)
    if options.pop("calibrated", False):
        options["calibration"] = Calibration(data)
    source = chain(tmp_path, data, 60, 40)
    report = prune(source, layout="auto", dry_run=True, **options)
    pivoted = prune(source, layout="pivoted", dry_run=True, **options)
    assert [p.rank for p in report.layers] == [p.rank for p in pivoted.layers]
    assert {type(plan.layout) for plan in report.pruned} == {Pivoted}
    assert any("hidden layers keep their widths" in n and words in n for n in report.notes)


def test_a_directory_has_one_width_and_opens_with_the_loader(tmp_path: Path) -> None:
    source, text = directory("bert", tmp_path), data_for("bert", tmp_path)
    report = prune(
        source,
        tmp_path / "small",
        layout="auto",
        budget=Budget("60%", "macs"),
        evaluation=Evaluation(text, task=TASKED["bert"]),
        calibration=Calibration(text),
    )
    assert any(plan.narrowed and plan.ranked for plan in report.layers)
    widths = {p.shape[0] for p in report.layers if "intermediate" in p.layer.name}
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert widths == {config["intermediate_size"]}
    assert "narrowed" not in config["quantization_config"]
    assert any("import rmtcli.integrations.transformers" in note for note in report.notes)
    model, info = transformers.AutoModel.from_pretrained(
        tmp_path / "small", output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert sum(p.numel() for p in model.parameters()) == report.parameters[1]
    written = rmtcli.evaluate(
        tmp_path / "small",
        evaluation=Evaluation(text, task=TASKED["bert"]),
        against=source,
    )
    assert written.comparison is not None
    assert report.comparison is not None
    np.testing.assert_allclose(
        written.comparison.cosines, report.comparison.cosines, rtol=0, atol=1e-5
    )
