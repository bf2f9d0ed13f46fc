"""Look-up tables as two factors, in files and in torch modules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model
from torch import Tensor, nn

import rmtcli
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import CheckpointError
from rmtcli.layouts.tables import SplitHead, SplitTable

ROWS, WIDTH, RANK = 90, 32, 7
X = torch.arange(60).view(6, 10) % ROWS


class Language(nn.Module):
    """A table, a recurrent layer, and a head that may be tied to the table."""

    def __init__(self, *, tied: bool = True, **options: object) -> None:
        super().__init__()
        self.embed = nn.Embedding(ROWS, WIDTH, padding_idx=3, **options)
        self.rnn, self.head = nn.GRU(WIDTH, WIDTH, batch_first=True), nn.Linear(WIDTH, ROWS)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(tokens))[0])


def made(path: Path, *, tied: bool = True) -> Language:
    """A network whose table is of low rank, and its file."""
    torch.manual_seed(0)
    model = Language(tied=tied).eval()
    with torch.no_grad():
        model.embed.weight.copy_(torch.randn(ROWS, RANK) @ torch.randn(RANK, WIDTH))
        model.embed.weight[3] = 0
    if path.suffix == ".pt":
        torch.save(model.state_dict(), path)
    else:
        save_model(model, str(path))
    return model


def prune(path: Path, layout: str = "factored") -> rmtcli.Report:
    selection = rmtcli.Selection(include=["embed.weight"], embeddings=True)
    small = path.with_stem("small")
    return rmtcli.prune(path, small, keep=f"rank:k={RANK}", selection=selection, layout=layout)


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_table_becomes_a_table_of_few_columns_and_a_map(
    tmp_path: Path, ending: str, tied: bool
) -> None:
    model = made(tmp_path / f"a{ending}", tied=tied)
    report = prune(tmp_path / f"a{ending}")
    assert report.parameters[0] - report.parameters[1] == ROWS * WIDTH - RANK * (ROWS + WIDTH)
    written = open_checkpoint(tmp_path / f"small{ending}")
    assert written.infos["embed.0.weight"].shape == (ROWS, RANK)
    assert written.infos["embed.1.weight"].shape == (WIDTH, RANK)
    plain = nn.Sequential(nn.Embedding(ROWS, RANK), nn.Linear(RANK, WIDTH, bias=False))
    with torch.no_grad():
        for name, tensor in plain.state_dict().items():
            tensor.copy_(torch.tensor(written.array(f"embed.{name}")))
        torch.testing.assert_close(plain(X), model.embed(X), rtol=1e-4, atol=1e-4)
    loaded = rmtcli.load(Language(tied=tied), tmp_path / f"small{ending}").eval()
    torch.testing.assert_close(loaded(X), model(X), rtol=1e-4, atol=1e-4)
    assert isinstance(loaded.embed, SplitTable)
    assert sum(p.numel() for p in loaded.parameters()) == report.parameters[1]
    assert isinstance(loaded.head, SplitHead) == tied
    dense = rmtcli.densify(tmp_path / f"small{ending}", tmp_path / f"dense{ending}")
    assert dense.output.parameters == report.parameters[0]
    again = rmtcli.load(Language(tied=tied), tmp_path / f"dense{ending}").eval()
    torch.testing.assert_close(again(X), model(X), rtol=1e-4, atol=1e-4)


def test_a_padding_row_stays_zero_and_is_not_trained(tmp_path: Path) -> None:
    made(tmp_path / "a.pt")
    prune(tmp_path / "a.pt")
    loaded = rmtcli.load(Language(), tmp_path / "small.pt")
    assert loaded.embed.padding_idx == loaded.embed[0].padding_idx == 3
    assert not loaded.embed(torch.tensor([3])).any()
    loaded.embed(torch.tensor([3, 4])).sum().backward()
    assert loaded.embed[0].weight.grad[4].any()
    assert not loaded.embed[0].weight.grad[3].any()


def test_the_dense_layout_keeps_names_and_shapes(tmp_path: Path) -> None:
    model = made(tmp_path / "a.pt")
    prune(tmp_path / "a.pt", "dense")
    state = torch.load(tmp_path / "small.pt")
    assert state.keys() == model.state_dict().keys()
    torch.testing.assert_close(state["embed.weight"], model.embed.weight, rtol=1e-4, atol=1e-4)


def test_a_head_without_tensors_in_the_file_shares_the_table(tmp_path: Path) -> None:
    model = made(tmp_path / "a.pt")
    state = torch.load(tmp_path / "a.pt")
    torch.save({name: t for name, t in state.items() if name != "head.weight"}, tmp_path / "b.pt")
    prune(tmp_path / "b.pt")
    loaded = rmtcli.load(Language(), tmp_path / "small.pt").eval()
    torch.testing.assert_close(loaded(X), model(X), rtol=1e-4, atol=1e-4)
    assert loaded.head.right is loaded.embed.right


def test_factors_are_recognised_without_a_record(tmp_path: Path) -> None:
    model = made(tmp_path / "a.pt")
    prune(tmp_path / "a.pt")
    torch.save(dict(torch.load(tmp_path / "small.pt")), tmp_path / "saved.pt")
    report = rmtcli.densify(tmp_path / "saved.pt", tmp_path / "dense.pt")
    assert any("without rmtcli's record" in note for note in report.notes)
    table = torch.load(tmp_path / "dense.pt")["embed.weight"]
    torch.testing.assert_close(table, model.embed.weight, rtol=1e-4, atol=1e-4)


def test_a_table_that_does_more_than_look_up_is_refused(tmp_path: Path) -> None:
    made(tmp_path / "a.pt")
    prune(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="'embed' is a Embedding, which cannot be split"):
        rmtcli.load(Language(max_norm=1.0), tmp_path / "small.pt")


def test_a_split_table_is_stored_in_few_bits(tmp_path: Path) -> None:
    model = made(tmp_path / "a.pt")
    selection = rmtcli.Selection(include=["embed.weight"], embeddings=True)
    small, rule = tmp_path / "small.pt", f"rank:k={RANK}"
    rmtcli.prune(tmp_path / "a.pt", small, keep=rule, selection=selection, bits=8)
    written = open_checkpoint(small)
    assert written.packed("embed.0.weight") is not None
    loaded = rmtcli.load(Language(), small).eval()
    with torch.no_grad():
        dense, rounded = model.embed(X), loaded.embed(X)
    assert not rounded[X == 3].any()
    assert float((rounded - dense).norm() / dense.norm()) < 0.02
