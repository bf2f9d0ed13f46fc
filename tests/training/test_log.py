"""A pruner's log, to files and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmtcli.errors import UsageError
from rmtcli.training import RMTPruner, read_log, write_log
from tests.training.networks import network
from tests.training.test_pruner import sgd


def logged() -> list[dict[str, object]]:
    model = network(48, 64, 64, 4)
    pruner = RMTPruner(model, sgd(model), start=1, keep="rank:k=10", edge="bema")
    for loss in (1.0, 0.5, 0.25):
        pruner.step(loss=loss)
    return pruner.log


@pytest.mark.parametrize("ending", [".csv", ".json"])
def test_a_log_is_read_as_it_was_written(tmp_path: Path, ending: str) -> None:
    rows = logged()
    assert len(rows) == 6
    assert rows[0] == {
        "time": 0,
        "parameters": 7556,
        "layer": "fc1.weight",
        "rank": 48,
        "loss": 1.0,
    }
    assert rows[2]["action"] == "split"
    write_log(rows, tmp_path / f"log{ending}")
    assert read_log(tmp_path / f"log{ending}") == rows


def test_names_with_commas_and_quotes_are_read_as_written(tmp_path: Path) -> None:
    rows = [{"time": 0, "parameters": 1, "layer": 'a,"b"\n.weight', "rank": 1}]
    write_log(rows, tmp_path / "log.csv")
    assert read_log(tmp_path / "log.csv") == rows


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("log.txt", "", "a log's name must end in .csv or .json"),
        ("gone.csv", None, "gone.csv: no such file"),
        ("log.json", "{", "not a log of RMTPruner"),
        ("log.json", "[]", "not a log of RMTPruner: a row has time, parameters, layer, rank"),
        ("log.csv", "a,b\n1,2\n", "not a log of RMTPruner: a row has"),
        ("log.csv", "time,parameters,layer,rank\nx,1,a,1\n", "not a log of RMTPruner"),
        ("log.json", '[{"time":"now","parameters":1,"layer":"a","rank":1}]', "not a log"),
    ],
)
def test_files_that_are_not_logs_are_refused(
    tmp_path: Path, name: str, text: str | None, line: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=line):
        read_log(tmp_path / name)
