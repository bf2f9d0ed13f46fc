"""Which look-up tables are layers, and which heads are tied to them."""

from __future__ import annotations

from pathlib import Path

import torch

from rmtcli.checkpoint import open_checkpoint
from rmtcli.layers import Layer, Selection, Skipped, SkipReason, find_layers
from tests.layers.test_find import write
from tests.layers.test_roles import directory as kinds_of_directory

SHAPES = {
    "embeddings.word_embeddings.weight": (90, 20),
    "embeddings.position_embeddings.weight": (64, 20),
    "embeddings.token_type_embeddings.weight": (2, 20),
    "tiny_embedding.weight": (12, 20),
    "block.0.weight": (40, 20),
    "block.0.bias": (40,),
    "block.1.weight": (20, 40),
    "block.1.bias": (20,),
}


def find(path: Path, **options: object) -> dict[str, Layer | Skipped]:
    selection = Selection(min_side=0, embeddings=True, **options)
    return {item.name: item for item in find_layers(open_checkpoint(path), selection)}


def tied(path: Path) -> Path:
    """A file whose head is tied to its table."""
    table = torch.randn(90, 20)
    state = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    state |= {"embeddings.word_embeddings.weight": table, "lm_head.weight": table}
    torch.save(state | {"lm_head.bias": torch.randn(90)}, path)
    return path


def test_tables_of_tokens_are_layers_if_asked_for(tmp_path: Path) -> None:
    items = find(write(tmp_path / "a.pt", SHAPES).path)
    table = items["embeddings.word_embeddings.weight"]
    assert isinstance(table, Layer)
    assert table.shape == (20, 90)  # from one-hot inputs
    assert table.view.table
    assert not table.linear
    assert not table.head
    stored = open_checkpoint(tmp_path / "a.pt").array(table.name)
    assert (table.load() == stored.T).all()
    others = {name for name, x in items.items() if x == Skipped(name, SkipReason.NO_TOKENS)}
    assert others == {*list(SHAPES)[1:4]}


def test_without_the_option_all_are_left_alone(tmp_path: Path) -> None:
    items = find_layers(write(tmp_path / "a.pt", SHAPES))
    reasons = [item.reason for item in items if isinstance(item, Skipped)]
    assert reasons == 4 * [SkipReason.EMBEDDING]
    assert "--embeddings" in SkipReason.EMBEDDING.value


def test_a_full_name_chooses_any_table(tmp_path: Path) -> None:
    name = "embeddings.position_embeddings.weight"
    items = find(write(tmp_path / "a.pt", SHAPES).path, include=[name])
    assert [x.name for x in items.values() if isinstance(x, Layer)] == [name]
    assert items[name].view.table


def test_a_vocabulary_tells_a_table_without_a_name(tmp_path: Path) -> None:
    shapes = {"a.weight": (90, 20), "b.0.weight": (40, 20), "b.1.weight": (20, 40)}
    assert kinds_of_directory(tmp_path, 90, shapes)["a.weight"] is SkipReason.EMBEDDING
    items = find(tmp_path)
    assert items["a.weight"].view.table
    assert not items["b.0.weight"].view.table


def test_a_tied_head_follows_its_table(tmp_path: Path) -> None:
    path = tied(tmp_path / "a.pt")
    for options in ({}, {"include": ["*word_embeddings*"]}):
        items = find(path, **options)
        assert items["embeddings.word_embeddings.weight"].tied == ("lm_head.weight",)
        assert not items["embeddings.word_embeddings.weight"].head
        assert items["lm_head.weight"] == Skipped("lm_head.weight", SkipReason.TIED)


def test_patterns_leave_tables_out(tmp_path: Path) -> None:
    items = find(tied(tmp_path / "a.pt"), include=["block*"])
    name = "embeddings.word_embeddings.weight"
    assert items[name] == Skipped(name, SkipReason.EXCLUDED)
    assert isinstance(items["block.0.weight"], Layer)


def test_an_excluded_head_keeps_its_table(tmp_path: Path) -> None:
    items = find(tied(tmp_path / "a.pt"), exclude=["lm_head*"])
    name = "embeddings.word_embeddings.weight"
    assert items[name] == Skipped(name, SkipReason.TIED)
