"""What counts as a parameter, and that one number is judged, reported and written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import rmtcli
from rmtcli.cli.options.output import OutputOptions
from rmtcli.cli.reporter import Reporter
from rmtcli.planning import Budget
from rmtcli.report.base import Report
from rmtcli.report.conditions import Condition, values_of
from rmtcli.report.summary import summary
from rmtcli.report.totals import totals
from tests.conftest import model_directory, planted

SIZES = tuple(f"{what}.{x}" for what in ("params", "bytes") for x in ("before", "after", "ratio"))


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


def test_bytes_of_an_optimizer_are_not_the_networks(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(128, 128), torch.nn.Linear(128, 10))
    model[0].weight.data = weight(128, 128)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 128)).sum().backward()
    optimizer.step()
    state = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, tmp_path / "a.pt")
    report = rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.safetensors", keep="rank:k=2")
    network = 4 * (128 * 128 + 128 + 128 * 10 + 10)
    source, lines = report.source, dict(summary(report))
    assert source.bytes - source.other_bytes == network
    assert source.other_bytes > 2 * network
    assert lines["bytes of the network"].startswith(f"{network:,} → ")
    assert lines["bytes of other objects"] == f"{source.other_bytes:,} → 0 (-100.0 %)"
    labels = [label for label, *_ in totals(report)]
    assert {"bytes on disk", "bytes of the network", "bytes of other objects"} <= set(labels)
    text = dict(rmtcli.info(tmp_path / "a.pt").lines)["bytes on disk"]
    assert text == f"{source.bytes:,}, {source.other_bytes:,} of other objects"
    again = rmtcli.prune(tmp_path / "b.safetensors", dry_run=True, keep="rank:k=1")
    assert again.source.other_bytes == 0


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
    assert (after["bytes.before"], after["bytes.after"]) == (
        4 * (160 * 64 + 64 * 64),
        4 * (160 * 64 + 2 * 128),
    )
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


@pytest.mark.parametrize("layout", ["factored", "pivoted", "dense"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_bytes_are_judged_as_they_are_written(
    tmp_path: Path, layout: str, dtype: torch.dtype
) -> None:
    state = {"fc.weight": weight(128, 96).to(dtype), "fc.bias": torch.ones(128, dtype=dtype)}
    save_file({**state, "ids": torch.arange(9)}, tmp_path / "a.safetensors")
    only = rmtcli.Selection(include=("fc.weight",))
    options = {"keep": "rank:k=2", "layout": layout, "selection": only}
    planned = values_of(rmtcli.prune(tmp_path / "a.safetensors", dry_run=True, **options))
    written = rmtcli.prune(tmp_path / "a.safetensors", tmp_path / "b.safetensors", **options)
    tensors = load_file(tmp_path / "b.safetensors").values()
    assert planned["bytes.after"] == sum(tensor.nbytes for tensor in tensors)
    assert planned == values_of(written)
