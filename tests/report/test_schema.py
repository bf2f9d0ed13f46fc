"""Every report follows the schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rmtcli.edges import Verdict
from rmtcli.keep import Untouched
from rmtcli.layers import SkipReason
from rmtcli.report.record import SCHEMA_VERSION
from tests.conftest import ROOT, Run

jsonschema = pytest.importorskip("jsonschema")

SCHEMA = json.loads((ROOT / "rmtcli/report/schema.json").read_text())
CHECK = jsonschema.Draft202012Validator(SCHEMA)
DEEP, DATA = "sample_models/mnist_deep.pt", ("--data", "sample_models/mnist.npz")
RUNS = {
    "analyze": ("analyze", "sample_models/planted.safetensors"),
    "no law": ("analyze", DEEP, "--edge", "screenot"),
    "dense": ("prune", DEEP, "--keep", "edge", "--layout", "dense", "-o", "x.pt"),
    "budget": ("prune", DEEP, "--budget", "10%", *DATA, "--dry-run"),
    "max drop": ("prune", DEEP, "--max-drop", "0.5", *DATA, "--dry-run"),
    "healed": ("prune", DEEP, "--budget", "5%", "--heal", "1", *DATA, "--dry-run"),
    "time": ("prune", DEEP, "--batch", "2", *DATA, "--dry-run"),
    "curve": ("curve", DEEP, "--size", "10%", *DATA),
    "evaluate": ("evaluate", DEEP, *DATA),
    "finetune": ("finetune", DEEP, "--keep", "edge", "--epochs", "1", *DATA, "-o", "x.pt"),
    "simulate": ("simulate", "noise.safetensors", "--shape", "40x40"),
}


def test_the_schema_is_valid_and_lists_every_word() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["schema_version"] == {"const": SCHEMA_VERSION}
    layer = SCHEMA["$defs"]["layer"]["properties"]
    assert layer["verdict"]["enum"] == [v.name.lower() for v in Verdict]
    assert layer["reason"]["enum"] == [None, *(u.name.lower() for u in Untouched)]
    skipped = SCHEMA["properties"]["skipped"]["items"]["properties"]
    assert skipped["reason"]["enum"] == [reason.value for reason in SkipReason]


@pytest.mark.parametrize("name", RUNS)
def test_reports_follow_the_schema(workdir: Path, rmtcli: Run, name: str) -> None:
    done = rmtcli(*RUNS[name], "--json")
    assert done.returncode == 0, done.stderr
    CHECK.validate(json.loads(done.stdout))


@pytest.mark.parametrize("file", sorted((ROOT / "tests/golden").glob("*.json")), ids=str)
def test_golden_reports_follow_the_schema(file: Path) -> None:
    CHECK.validate(json.loads(file.read_text()))


def without(record: Any) -> None:
    del record["layers"][0]["edge"]


def stranger(record: Any) -> None:
    record["layers"][0]["colour"] = "red"


def text(record: Any) -> None:
    record["parameters"]["after"] = "few"


def half(record: Any) -> None:
    record["accuracy"] = {"measured": True}


@pytest.mark.parametrize("harm", [without, stranger, text, half])
def test_the_schema_refuses_damaged_reports(harm: Any) -> None:
    record = json.loads((ROOT / "tests/golden/planted.safetensors.json").read_text())
    harm(record)
    with pytest.raises(jsonschema.ValidationError):
        CHECK.validate(record)


def test_the_schema_command_prints_the_schema(rmtcli: Run) -> None:
    assert json.loads(rmtcli("schema").stdout) == SCHEMA
