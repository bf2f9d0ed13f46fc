from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rmtcli.checkpoint import Checkpoint, open_checkpoint
from rmtcli.errors import UsageError
from rmtcli.layers import Layer, Selection, Skipped, SkipReason, find_layers


def write(path: Path, shapes: dict[str, tuple[int, ...]], **others: torch.Tensor) -> Checkpoint:
    torch.manual_seed(0)
    torch.save({name: torch.randn(shape) for name, shape in shapes.items()} | others, path)
    return open_checkpoint(path)


def kinds_of(
    checkpoint: Checkpoint, selection: Selection | None = None
) -> dict[str, SkipReason | bool]:
    """Reason of each skipped tensor; for a layer, whether it is a head."""
    items = find_layers(checkpoint, selection)
    return {i.name: i.reason if isinstance(i, Skipped) else i.head for i in items}


def test_each_tensor_is_a_layer_or_skipped_with_its_reason(tmp_path: Path) -> None:
    checkpoint = write(
        tmp_path / "a.pt",
        {
            "embeddings.word_embeddings.weight": (100, 64),
            "transformer.wte.weight": (100, 64),
            "time_embed.0.weight": (64, 64),  # a linear layer: it has a bias
            "time_embed.0.bias": (64,),
            "conv.weight": (64, 3, 3, 3),
            "rnn.weight_ih_l0": (256, 64),
            "attn.in_proj_weight": (192, 64),
            "pos": (10, 64),
            "norm.weight": (64,),
            "h.0.fc.weight": (64, 64),
            "h.0.fc.bias": (64,),
            "narrow.weight": (31, 64),
            "empty.weight": (0, 64),
            "classifier.weight": (64, 64),
            "proj.weight": (64, 64),
            "last.weight": (1000, 64),
        },
        **{"q.weight": torch.ones(64, 64, dtype=torch.int8)},
    )
    assert kinds_of(checkpoint) == {
        "embeddings.word_embeddings.weight": SkipReason.EMBEDDING,
        "transformer.wte.weight": SkipReason.EMBEDDING,
        "time_embed.0.weight": False,
        "conv.weight": SkipReason.NOT_MATRIX,
        "rnn.weight_ih_l0": SkipReason.RECURRENT,
        "attn.in_proj_weight": SkipReason.NOT_WEIGHT,
        "pos": SkipReason.NOT_WEIGHT,
        "h.0.fc.weight": False,
        "narrow.weight": True,
        "empty.weight": SkipReason.EMPTY,
        "classifier.weight": True,
        "proj.weight": False,
        "last.weight": True,
        "q.weight": SkipReason.NOT_FLOAT,
    }


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_a_prefix_of_all_names_changes_nothing(tmp_path: Path, prefix: str) -> None:
    shapes = {"embed_tokens.weight": (50, 40), "fc.weight": (40, 40), "head.weight": (40, 40)}
    checkpoint = write(tmp_path / "a.pt", {f"{prefix}{n}": s for n, s in shapes.items()})
    assert list(kinds_of(checkpoint).values()) == [SkipReason.EMBEDDING, False, True]
    assert all(name.startswith(prefix) for name in kinds_of(checkpoint))


def test_a_bare_linear_layer_is_a_head(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "a.pt", {"weight": (64, 64), "bias": (64,)})
    assert kinds_of(checkpoint) == {"weight": True}
    assert kinds_of(checkpoint, Selection(include=["weight"])) == {"weight": False}


SHAPES = {f"h.{i}.{w}.weight": (64, 64) for i in (1, 2, 12) for w in ("up", "down")}


def test_patterns_select_by_whole_names(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "a.pt", SHAPES)
    only = kinds_of(checkpoint, Selection(include=["h.2.*"]))
    assert [n for n, r in only.items() if r is not SkipReason.EXCLUDED] == [
        "h.2.up.weight",
        "h.2.down.weight",  # and not h.12
    ]
    both = kinds_of(checkpoint, Selection(include=["h.*"], exclude=["*.up.weight", "h.1.*"]))
    layers = [n for n, r in both.items() if r is not SkipReason.EXCLUDED]
    assert layers == ["h.2.down.weight", "h.12.down.weight"]
    module = kinds_of(checkpoint, Selection(include=["h.1", "h.12.up"]))
    layers = [n for n, r in module.items() if r is not SkipReason.EXCLUDED]
    assert layers == ["h.1.up.weight", "h.1.down.weight", "h.12.up.weight"]
    with pytest.raises(UsageError, match=r"pattern 'h\.3\.\*' matches no tensor"):
        list(find_layers(checkpoint, Selection(exclude=["h.3.*"])))


def test_a_pattern_without_a_match_is_answered_with_the_nearest_names(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "a.pt", SHAPES)
    nearest = r"the nearest are h\.2\.up, h\.12\.up, h\.1\.up$"
    with pytest.raises(UsageError, match=nearest):
        list(find_layers(checkpoint, Selection(include=["h.2.up.weigth"])))
    with pytest.raises(UsageError, match=r"'rmtcli analyze' lists the names$"):
        list(find_layers(checkpoint, Selection(include=["q"])))


def test_a_head_is_selected_by_its_whole_name_but_not_by_a_wildcard(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "a.pt", {"fc.weight": (64, 64), "head.weight": (10, 64)})
    assert kinds_of(checkpoint, Selection(include=["*"]))["head.weight"] is True
    assert kinds_of(checkpoint, Selection(include=["head.weight"]))["head.weight"] is False
    assert kinds_of(checkpoint, Selection(include=["head"]))["head.weight"] is False


def test_layers_with_fewer_outputs_than_min_side_are_heads(tmp_path: Path) -> None:
    shapes = {"a.weight": (10, 64), "b.weight": (60, 64), "c.weight": (64, 64)}
    checkpoint = write(tmp_path / "a.pt", shapes)
    assert list(kinds_of(checkpoint).values()) == [True, False, True]
    assert list(kinds_of(checkpoint, Selection(min_side=0)).values()) == [False, False, True]
    assert list(kinds_of(checkpoint, Selection(min_side=65)).values()) == [True, True, True]


def tied_file(folder: Path, container: str) -> Checkpoint:
    torch.manual_seed(0)
    a, e = torch.randn(64, 64), torch.randn(64, 64)
    state = {"a.weight": a, "b.weight": a, "c.weight": torch.randn(64, 64)}
    state |= {"d.weight": e, "embed.weight": e, "x.weight": torch.randn(64, 64)}
    if container == "torch":
        torch.save(state, folder / "a.pt")
        return open_checkpoint(folder / "a.pt")
    save_file({name: value.clone() for name, value in state.items()}, folder / "a.safetensors")
    return open_checkpoint(folder / "a.safetensors")


@pytest.mark.parametrize("container", ["torch", "safetensors"])
def test_tied_weights_are_one_layer_unless_one_is_an_embedding(
    tmp_path: Path, container: str
) -> None:
    checkpoint = tied_file(tmp_path, container)
    items = {item.name: item for item in find_layers(checkpoint)}
    first = items["a.weight"]
    assert isinstance(first, Layer)
    assert first.tied == ("b.weight",)
    assert items["b.weight"] == Skipped("b.weight", SkipReason.TIED)
    assert items["d.weight"] == Skipped("d.weight", SkipReason.TIED)
    assert items["embed.weight"] == Skipped("embed.weight", SkipReason.EMBEDDING)
    # Leaving out one of two tied names leaves out the other.
    kept = kinds_of(checkpoint, Selection(exclude=["b.weight"]))
    assert kept["a.weight"] is SkipReason.TIED


def test_layers_load_exactly_and_lazily(tmp_path: Path) -> None:
    w = torch.randn(40, 50).to(torch.bfloat16)
    torch.save({"a.weight": w, "b.weight": torch.ones(40, 40)}, tmp_path / "a.pt")
    layer = next(iter(find_layers(open_checkpoint(tmp_path / "a.pt"))))
    assert isinstance(layer, Layer)
    assert (layer.shape, layer.dtype, layer.module) == ((40, 50), "BF16", "a")
    np.testing.assert_array_equal(layer.load(), w.float().numpy())


def test_patterns_do_not_make_another_layer_the_last(tmp_path: Path) -> None:
    shapes = {"a.weight": (64, 64), "b.weight": (64, 64), "head.weight": (10, 64)}
    checkpoint = write(tmp_path / "a.pt", shapes)
    for selection in (Selection(exclude=["head.*"]), Selection(include=["[ab].*"])):
        fates = kinds_of(checkpoint, selection)
        assert fates == {"a.weight": False, "b.weight": False, "head.weight": SkipReason.EXCLUDED}


def test_a_tied_head_is_a_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    e = torch.randn(200, 64)
    tensors = {"tok.weight": e, "fc.weight": torch.randn(64, 64), "lm_head.weight": e}
    torch.save(tensors, tmp_path / "a.pt")
    assert kinds_of(open_checkpoint(tmp_path / "a.pt")) == {
        "tok.weight": True,
        "fc.weight": False,
        "lm_head.weight": SkipReason.TIED,
    }


def test_a_bias_of_another_length_than_the_outputs_is_reported(tmp_path: Path) -> None:
    """GPT-2 stores its weights as in × out."""
    shapes = {"c_attn.weight": (64, 192), "c_attn.bias": (192,), "z.weight": (64, 64)}
    assert kinds_of(write(tmp_path / "a.pt", shapes))["c_attn.weight"] is SkipReason.BIAS


def test_routers_are_skipped_if_there_are_experts(tmp_path: Path) -> None:
    checkpoint = write(
        tmp_path / "a.pt",
        {
            "0.moe.gate.weight": (64, 128),
            "0.moe.experts.0.w1.weight": (64, 128),
            "1.mlp.gate.weight": (64, 128),  # no experts beside it
            "2.fc.weight": (64, 64),
        },
    )
    kinds = kinds_of(checkpoint)
    assert kinds["0.moe.gate.weight"] is SkipReason.ROUTER
    assert kinds["1.mlp.gate.weight"] is False
    assert kinds["0.moe.experts.0.w1.weight"] is False


def test_the_last_layer_does_not_depend_on_alphabetical_order(tmp_path: Path) -> None:
    tensors = {"encoder.weight": torch.randn(64, 200), "decoder.weight": torch.randn(200, 64)}
    save_file(tensors, tmp_path / "a.safetensors")
    assert kinds_of(open_checkpoint(tmp_path / "a.safetensors")) == {
        "decoder.weight": False,
        "encoder.weight": False,
    }
