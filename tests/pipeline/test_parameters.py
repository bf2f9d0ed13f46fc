"""What counts as a parameter, and that one number is judged, reported and written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import rmtcli
from rmtcli.cli.options.output import OutputOptions
from rmtcli.cli.reporter import Reporter
from rmtcli.planning import Budget
from rmtcli.report.base import Report
from rmtcli.report.conditions import Condition, values_of
from tests.conftest import model_directory, planted

SIZES = ("params.before", "params.after", "params.ratio")


def weight(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(planted((rows, columns), 3, times=4, seed=seed)).float()


def test_masks_and_whole_numbers_are_not_parameters(tmp_path: Path) -> None:
    layer, path = weight(128, 128), tmp_path / "masked.safetensors"
    mask = torch.ones(1, 1, 256, 256, dtype=torch.bool).tril()
    ids = torch.arange(4096)[None]
    save_file({"h.weight": layer, "h.bias": torch.ones(128), "mask": mask, "ids": ids}, path)
    floats = 128 * 128 + 128
    assert rmtcli.info(path).source.parameters == floats
    report = rmtcli.prune(
        path,
        tmp_path / "out.safetensors",
        budget=Budget("50%"),
        selection=rmtcli.Selection(include=("h.weight",)),
    )
    before, after = report.parameters
    assert before == floats
    assert 0.48 < after / before <= 0.5  # with the mask, all of it would have been cut
    assert rmtcli.info(tmp_path / "out.safetensors").source.parameters == after


@pytest.fixture
def tied() -> dict[str, torch.Tensor]:
    """A network whose embedding and head are one tensor."""
    shared = weight(160, 64, seed=1)
    return {"emb.weight": shared, "fc.weight": weight(64, 64), "lm_head.weight": shared}


def test_a_tied_weight_counts_once_in_every_judgement(
    tmp_path: Path, tied: dict[str, torch.Tensor]
) -> None:
    torch.save(tied, tmp_path / "tied.pt")
    judged: list[Report] = []
    report = rmtcli.prune(
        tmp_path / "tied.pt",
        tmp_path / "out.safetensors",
        keep="rank:k=2",
        refuse=lambda report: judged.append(report) or (),  # type: ignore[func-returns-value]
    )
    assert report.output is not None
    before, after = values_of(judged[0]), values_of(report)
    assert {name: before[name] for name in SIZES} == {name: after[name] for name in SIZES}
    assert after["params.after"] == 160 * 64 + 2 * 128
    assert report.output.parameters == after["params.after"]


def test_what_is_not_refused_does_not_fail_after_it_was_written(
    tmp_path: Path, tied: dict[str, torch.Tensor]
) -> None:
    pytest.importorskip("simpleeval")
    torch.save(tied, tmp_path / "tied.pt")
    reporter = Reporter(OutputOptions(), (Condition.parse("params.ratio > 1"),))
    report = rmtcli.prune(
        tmp_path / "tied.pt",
        tmp_path / "out.safetensors",
        keep="rank:k=2",
        refuse=reporter.refuse,
    )
    reporter.show(report)  # raised ConditionError, for the file that had been written


def test_terminal_and_model_card_show_the_same_parameters(
    tmp_path: Path, tied: dict[str, torch.Tensor]
) -> None:
    source = model_directory(tmp_path / "m", tied, container="bin")
    report = rmtcli.prune(source, tmp_path / "out", keep="rank:k=2")
    assert report.output is not None
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{report.parameters[0]:,} → {report.parameters[1]:,}" in card
