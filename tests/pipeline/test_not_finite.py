"""NaN where no layer is: the report says so, in every command that reads the tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import rmtcli
from rmtcli.errors import LayerError
from tests.conftest import planted

NAN, INF = float("nan"), float("inf")


def network(**others: torch.Tensor) -> dict[str, torch.Tensor]:
    weight = torch.from_numpy(planted((96, 64), 3, times=4)).float()
    return {"fc.weight": weight, "head.weight": torch.ones(4, 96), **others}


def broken(value: float, *shape: int) -> torch.Tensor:
    tensor = torch.ones(shape)
    tensor.view(-1)[-1] = value
    return tensor


def notes_on_values(report: rmtcli.Report) -> list[str]:
    return [note for note in report.notes if note.startswith("NaN or infinite values")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("embed.weight", NAN),
        ("norm.weight", -INF),
        ("norm.bias", INF),
        ("bn.running_var", NAN),
        ("bn.running_var", -INF),
    ],
)
def test_a_tensor_that_is_no_layer_is_named(tmp_path: Path, name: str, value: float) -> None:
    shape = (300, 64) if name == "embed.weight" else (64,)
    save_file(network(**{name: broken(value, *shape)}), tmp_path / "a.safetensors")
    for report in (
        rmtcli.analyze(tmp_path / "a.safetensors"),
        rmtcli.prune(tmp_path / "a.safetensors", tmp_path / "b.safetensors", keep="rank:k=3"),
        rmtcli.densify(tmp_path / "b.safetensors", tmp_path / "c.safetensors"),
    ):
        (note,) = notes_on_values(report)
        assert f"are in {name}: repair" in note


def test_masks_may_be_minus_infinite(tmp_path: Path) -> None:
    mask = torch.full((8, 8), -INF).triu(1)
    state = network(**{"attn.mask": mask, "attn.bias": mask.clone(), "ids": torch.arange(9)})
    save_file(state, tmp_path / "a.safetensors")
    assert notes_on_values(rmtcli.analyze(tmp_path / "a.safetensors")) == []


def test_a_layer_is_refused_or_listed_as_before(tmp_path: Path) -> None:
    state = network(**{"up.weight": broken(NAN, 64, 64)})
    torch.save(state, tmp_path / "a.pt")
    report = rmtcli.analyze(tmp_path / "a.pt")
    assert notes_on_values(report) == []
    assert [item.name for item in report.skipped if "NaN" in item.reason.value] == ["up.weight"]
    with pytest.raises(LayerError, match="leave the layer out with Selection"):
        rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.pt", keep="rank:k=3")
    without = rmtcli.Selection(exclude=("up.weight",))
    report = rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.pt", keep="rank:k=3", selection=without)
    assert "are in up.weight: repair" in notes_on_values(report)[0]


def test_several_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    save_file(network(**{f"n{i}.weight": broken(NAN, 8) for i in range(5)}), tmp_path / "a.st")
    (note,) = notes_on_values(rmtcli.analyze(tmp_path / "a.st"))
    assert "are in n0.weight, n1.weight, n2.weight and 2 more: repair" in note
