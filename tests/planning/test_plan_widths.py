"""Plans of widths: written, edited and applied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import rmtcli
from rmtcli import Calibration, Evaluation, prune
from rmtcli.errors import LayerError, RmtcliError, UsageError
from rmtcli.keep import Untouched
from rmtcli.planning import Budget, Plan
from tests.evaluation.test_tasks import TASKED, data_for, directory
from tests.pipeline.test_narrow import chain, data  # noqa: F401  data is a fixture

SIZES = (60, 60, 40)


def planned(folder: Path, data: Path, **options: Any) -> Plan:  # noqa: F811
    """The plan of a chain in ``net.safetensors``, which was pruned to ``a.safetensors``."""
    source = chain(folder, data, *SIZES)
    given = {"budget": Budget("25%"), "calibration": Calibration(data)} | options
    plan = prune(source, folder / "a.safetensors", **given).plan
    assert plan is not None
    (folder / "plan.json").write_text(plan.to_json())
    assert Plan.read(folder / "plan.json") == plan
    return plan


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "narrow"},
        {"layout": "auto"},
        {
            "layout": "auto",
            "budget": Budget("25%", "bytes"),
            "rank_multiple": 4,
            "bits": "none",
        },
        {"layout": "auto", "budget": Budget("8%", "bytes")},
        {"layout": "narrow", "budget": Budget("15%", "bytes")},
        {"layout": "auto", "calibration": {"sequential": True, "heal": 1}},
        {"layout": "auto", "budget": None, "keep": "rank:k=5"},
    ],
    ids=["narrow", "auto", "bytes", "bits", "narrow bits", "refined", "rule"],
)
def test_applying_a_plan_gives_the_same_bytes(
    tmp_path: Path,
    data: Path,  # noqa: F811
    options: dict[str, Any],
) -> None:
    if "calibration" in options:
        options = options | {"calibration": Calibration(data, **options["calibration"])}
    plan = planned(tmp_path, data, **options)
    assert plan.layout == options["layout"]
    again = prune(tmp_path / "net.safetensors", tmp_path / "b.safetensors", plan=plan)
    a, b = (load_file(tmp_path / f"{name}.safetensors") for name in "ab")
    assert a.keys() == b.keys()
    assert all(a[name].equal(b[name]) for name in a)
    assert again.plan == plan
    assert bool(plan.matrices) == (options.get("bits") is None and "bytes" in plan.made_by)


def test_a_directory_too(tmp_path: Path) -> None:
    source, text = directory("bert", tmp_path), data_for("bert", tmp_path)
    first = prune(
        source,
        tmp_path / "a",
        layout="auto",
        budget=Budget("70%", "macs"),
        selection=rmtcli.Selection(include=["encoder.*"]),
        evaluation=Evaluation(text, task=TASKED["bert"]),
        calibration=Calibration(text),
    )
    plan = first.plan
    task = Evaluation(task=TASKED["bert"])
    assert plan is not None
    assert len({item.width for item in plan.hidden}) == 1
    prune(source, tmp_path / "b", plan=plan, evaluation=task)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert a.keys() == b.keys()
    assert all(a[name].equal(b[name]) for name in a)
    configs = [(tmp_path / name / "config.json").read_text() for name in "ab"]
    assert configs[0] == configs[1]
    # Another width for one block is one that config.json cannot give.
    values = json.loads(plan.to_json())
    values["hidden"][0]["width"] -= 1
    (tmp_path / "plan.json").write_text(json.dumps(values))
    prune(source, tmp_path / "c", plan=tmp_path / "plan.json", evaluation=task)
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    narrowed = config["quantization_config"]["narrowed"].values()
    widths = {item["width"] for item in values["hidden"]}
    assert {min(entry["to"], key=lambda side: side == 32) for entry in narrowed} == widths


def test_widths_and_ranks_can_be_edited(tmp_path: Path, data: Path) -> None:  # noqa: F811
    values = json.loads(planned(tmp_path, data, layout="auto").to_json())
    values["hidden"][0]["width"] = 17
    dropped = values["hidden"].pop()
    values["layers"][1].update(rank=3, layout="factored")
    (tmp_path / "plan.json").write_text(json.dumps(values))
    report = prune(tmp_path / "net.safetensors", plan=tmp_path / "plan.json", dry_run=True)
    assert report.layers[0].shape[0] == report.layers[1].shape[1] == 17
    assert report.layers[1].rank == 3
    assert report.layers[1].layout.action == "split in two"
    wide = next(p for p in report.layers if p.layer.name == dropped["writers"][0])
    assert wide.shape[0] == dropped["units"]


#: A change of a plan for ``auto`` -> the error, and its message.
BROKEN: dict[str, tuple[Any, type[RmtcliError], str]] = {
    "wide": (
        lambda v: v["hidden"][0].update(width=61),
        UsageError,
        r"hidden\[0\]: 'width' must be from 1 to 'units', 60",
    ),
    "text": (lambda v: v["hidden"][0].update(width="9"), UsageError, "'width' must be a whole"),
    "nameless": (lambda v: v["hidden"][0].update(readers=[]), UsageError, "'readers' must be"),
    "other layer": (
        lambda v: v["hidden"][0].update(writers=["9.weight"]),
        LayerError,
        "the plan's layer '9.weight' is not there",
    ),
    "other block": (
        lambda v: v["hidden"][0].update(readers=["4.weight"]),
        LayerError,
        "the plan's hidden layer of 60 units beside '4.weight' cannot be made narrower",
    ),
    "rank": (
        lambda v: (v["hidden"][0].update(width=9), v["layers"][1].update(rank=10)),
        LayerError,
        "cannot have rank .*: it must be from 1 to",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_plan_that_does_not_fit_is_refused(
    case: str,
    tmp_path: Path,
    data: Path,  # noqa: F811
) -> None:
    values = json.loads(planned(tmp_path, data, layout="auto").to_json())
    change, error, message = BROKEN[case]
    change(values)
    (tmp_path / "plan.json").write_text(json.dumps(values))
    with pytest.raises(error, match=message):
        prune(tmp_path / "net.safetensors", plan=tmp_path / "plan.json", dry_run=True)


def test_another_layout_than_the_plan_s_is_refused(tmp_path: Path, data: Path) -> None:  # noqa: F811
    plan = planned(tmp_path, data, layout="narrow")
    source = tmp_path / "net.safetensors"
    with pytest.raises(UsageError, match='the plan is for layout="narrow", not pivoted'):
        prune(source, plan=plan, layout="pivoted", dry_run=True)
    same = prune(source, plan=plan, layout="narrow", dry_run=True)
    assert {p.untouched for p in same.layers} <= {None, Untouched.NO_BLOCK, Untouched.PLAN}
    ranks = prune(source, budget=Budget("50%"), calibration=Calibration(data), dry_run=True).plan
    with pytest.raises(UsageError, match="the plan has ranks and no widths"):
        prune(source, plan=ranks, layout="narrow", dry_run=True)
