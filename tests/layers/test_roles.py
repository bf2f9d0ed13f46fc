"""What a matrix is for, told from names, biases and the tensors around it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import rmtcli
from rmtcli.checkpoint import open_checkpoint
from rmtcli.keep import Untouched
from rmtcli.layers import Layer, Selection, SkipReason, find_layers
from tests.layers.test_find import kinds_of, write

CONV = Selection(convolutions=True, min_side=0)


def directory(folder: Path, vocabulary: int, shapes: dict[str, tuple[int, ...]]) -> dict:
    """The kinds of a directory's matrices."""
    torch.save({name: torch.randn(shape) for name, shape in shapes.items()},
               folder / "pytorch_model.bin")  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "vocab_size": vocabulary}))
    return kinds_of(open_checkpoint(folder))


BLOCK = {
    "block.0.q.weight": (96, 40),
    "block.0.k.weight": (96, 40),
    "block.0.o.weight": (40, 96),
    "pooler.weight": (96, 40),
}


def test_a_vocabulary_as_large_as_a_width_makes_no_layer_an_embedding(tmp_path: Path) -> None:
    kinds = directory(
        tmp_path, 96, {"shared.weight": (96, 40), **BLOCK, "lm_head.weight": (96, 40)}
    )
    assert kinds == {
        "shared.weight": SkipReason.EMBEDDING,
        **dict.fromkeys(BLOCK, False),
        "lm_head.weight": True,
    }


def test_a_vocabulary_makes_no_layer_in_a_block_an_embedding(tmp_path: Path) -> None:
    """Keys of few heads can have as many rows as there are bytes, and no matrix reads them."""
    block = {f"h.0.{name}.weight": (64, 80) for name in "kv"} | {"h.0.o.weight": (80, 80)}
    tables = {"tok.weight": (64, 80), "out.weight": (64, 80)}
    assert directory(tmp_path, 64, tables | block) == {
        **dict.fromkeys(tables, SkipReason.EMBEDDING),
        **dict.fromkeys(block, False),
    }


def test_embeddings_are_recognised_without_a_configuration(tmp_path: Path) -> None:
    shapes = {
        "model.shared.weight": (200, 64),
        "user_factors.weight": (200, 64),
        "shared.fc.weight": (64, 64),
        "z.weight": (64, 64),
    }
    kinds = kinds_of(write(tmp_path / "a.pt", shapes))
    assert list(kinds.values()) == [SkipReason.EMBEDDING, SkipReason.EMBEDDING, False, True]


def test_a_table_is_recognised_by_its_shape_and_released_by_its_name(tmp_path: Path) -> None:
    model = nn.ModuleDict(
        {"encoder": nn.Embedding(300, 48), "rnn": nn.LSTM(48, 48), "decoder": nn.Linear(48, 300)}
    )
    torch.save(model.state_dict(), tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    assert kinds_of(checkpoint)["encoder.weight"] is SkipReason.TABLE
    assert "--include" in SkipReason.TABLE.value
    chosen = kinds_of(checkpoint, Selection(include=["encoder.weight"]))
    assert chosen["encoder.weight"] is False
    model["decoder"].weight = model["encoder"].weight
    torch.save(model.state_dict(), tmp_path / "tied.pt")
    tied = kinds_of(open_checkpoint(tmp_path / "tied.pt"))
    assert tied["decoder.weight"] is SkipReason.TIED


@pytest.mark.parametrize(
    "shapes",
    [
        {"a.weight": (300, 48), "b.weight": (48, 300), "c.weight": (48, 48)},  # b reads it
        {"fc1.weight": (300, 48), "c.weight": (48, 48), "d.weight": (48, 48)},  # one of a series
        {"c.weight": (48, 48), "d.weight": (48, 48), "a.weight": (300, 48)},  # the last
        {"a.weight": (300, 48), "a.bias": (300,), "c.weight": (48, 48)},  # a bias
        {"a.weight": (300, 48), "c.weight": (48, 150), "d.weight": (48, 48)},  # gate and up
    ],
)
def test_other_tall_matrices_are_layers(tmp_path: Path, shapes: dict) -> None:
    assert SkipReason.TABLE not in kinds_of(write(tmp_path / "a.pt", shapes)).values()


def test_a_name_with_brackets_matches_itself(tmp_path: Path) -> None:
    shapes = {"a[0].weight": (64, 64), "b.weight": (64, 64), "c.weight": (64, 64)}
    checkpoint = write(tmp_path / "a.pt", shapes)
    kinds = kinds_of(checkpoint, Selection(exclude=["a[0].weight"]))
    assert kinds["a[0].weight"] is SkipReason.EXCLUDED
    assert kinds["b.weight"] is False
    assert kinds_of(checkpoint, Selection(include=["[a-b].weight"]))["b.weight"] is False


def test_transposed_and_bilinear_weights_are_not_convolutions(tmp_path: Path) -> None:
    model = nn.ModuleDict(
        {
            "down": nn.Conv2d(8, 24, 3),
            "up": nn.ConvTranspose2d(24, 8, 4),
            "deconv": nn.ConvTranspose2d(24, 24, 4, bias=False),
            "series": nn.ModuleList([nn.ConvTranspose1d(32, 16, 8), nn.ConvTranspose1d(16, 16, 8)]),
            "bare": nn.Sequential(nn.ConvTranspose2d(24, 8, 4, bias=False), nn.BatchNorm2d(8)),
            "mix": nn.Bilinear(20, 40, 36),
            "conv": nn.Conv1d(24, 24, 64),
            "last": nn.Conv1d(24, 24, 3),
        }
    )
    torch.save(model.state_dict(), tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    transposed = ("up", "deconv", "series.0", "series.1", "bare.0")
    assert kinds_of(checkpoint, CONV) == {
        "down.weight": False,
        **{f"{name}.weight": SkipReason.TRANSPOSED for name in transposed},
        "mix.weight": SkipReason.BILINEAR,
        "conv.weight": False,
        "last.weight": True,
    }
    chosen = Selection(include=["mix.weight"], convolutions=True)
    assert kinds_of(checkpoint, chosen)["mix.weight"] is False


class Wrapped(nn.Module):
    """Layers in a part of the network, as a trainer holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"h": nn.ModuleList([nn.Linear(40, 64), nn.Linear(64, 40)])})
        self.model["lm_head"] = nn.Linear(40, 64)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.", "model._orig_mod."),
        ("model.h.0.", "model.h.0._checkpoint_wrapped_module."),
        ("model.", "_fsdp_wrapped_module.model.module._fsdp_wrapped_module."),
    ],
)
def test_wrappers_inside_names_do_not_count(
    tmp_path: Path, old: str, new: str, share: bool
) -> None:
    model, path = Wrapped(), tmp_path / "a.pt"
    if share:  # two names of one module
        model.model["h"][1] = model.model["h"][0]
    state = {name.replace(old, new): value for name, value in model.state_dict().items()}
    torch.save(state, path)
    report = rmtcli.prune(path, keep="rank:k=3", output=tmp_path / "b.pt")
    assert {plan.layer.head for plan in report.layers} == {False, True}
    fresh = Wrapped()
    if share:
        fresh.model["h"][1] = fresh.model["h"][0]
    split = rmtcli.load(fresh, tmp_path / "b.pt")
    assert split.model["h"][0][0].weight.shape == (3, 40)
    assert torch.equal(split.model["lm_head"].weight, model.model["lm_head"].weight)


def test_roles_are_recognised_inside_wrappers(tmp_path: Path) -> None:
    inside = "_orig_mod._checkpoint_wrapped_module"
    shapes = {
        f"wte.{inside}.weight": (50, 64),
        f"h.0.gate.{inside}.weight": (64, 64),
        f"h.0.experts.{inside}.0.fc.weight": (64, 64),
        f"lm_head.{inside}.weight": (64, 64),
        "z.weight": (64, 64),
    }
    kinds = list(kinds_of(write(tmp_path / "a.pt", shapes)).values())
    assert kinds == [SkipReason.EMBEDDING, SkipReason.ROUTER, False, True, True]


@pytest.mark.parametrize(
    ("router", "experts"),
    [
        ("l.0.router.proj", "l.0.experts.up"),  # Gemma 4
        ("l.0.mlp.router.classifier", "l.0.mlp.experts.expert_0.wi.weight"),  # Switch
        ("l.0.ffn.router.layer", "l.0.ffn.experts.mlp.w1"),  # DBRX
        ("l.0.deepspeed_moe.gate.wg", "l.0.deepspeed_moe.experts.deepspeed_experts.0.fc.weight"),
        ("l.0.moe.router.layer", "l.0.moe.input_linear.weight"),  # Granite, JetMoE
        ("l.0.moe.chooser", "l.0.moe.experts.39.fc.weight"),  # one row for each
        ("l.0.moe.chooser", "l.0.moe.experts.up"),
    ],
)
def test_routers_of_other_families_are_recognised(
    tmp_path: Path, router: str, experts: str
) -> None:
    shape = (64, 64) if experts.endswith("fc.weight") else (40, 48, 64)
    others = {experts: shape, "l.0.moe.fc.weight": (64, 64), "z.weight": (64, 64)}
    kinds = kinds_of(write(tmp_path / "a.pt", {f"{router}.weight": (40, 64), **others}))
    assert kinds[f"{router}.weight"] is SkipReason.ROUTER
    assert kinds["l.0.moe.fc.weight"] is False


def gpt2(outputs_first: bool, bias: bool) -> dict[str, tuple[int, ...]]:
    sides = {"attn.c_attn": (64, 192), "attn.c_proj": (64, 64), "mlp.c_fc": (64, 256)}
    sides["mlp.c_proj"] = (256, 64)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (inputs, outputs) in sides.items():
        for i in range(3):
            shape = (outputs, inputs) if outputs_first else (inputs, outputs)
            shapes[f"h.{i}.{name}.weight"] = shape
            shapes |= {f"h.{i}.{name}.bias": (outputs,)} if bias else {}
    return shapes


@pytest.mark.parametrize("bias", [False, True])
def test_the_orientation_of_gpt2s_layers_is_decided_for_all_together(
    tmp_path: Path, bias: bool
) -> None:
    """The square layers' biases tell nothing."""
    last = {"z.weight": (64, 64)}
    stored = kinds_of(write(tmp_path / "in_out.pt", gpt2(False, bias) | last))
    assert stored == dict.fromkeys(gpt2(False, False), SkipReason.BIAS) | {"z.weight": True}
    linear = kinds_of(write(tmp_path / "linear.pt", gpt2(True, bias) | last))
    assert linear == dict.fromkeys(gpt2(True, False), False) | {"z.weight": True}


def test_a_square_layer_follows_its_siblings_in_out_biases(tmp_path: Path) -> None:
    shapes = {"fc1.weight": (80, 64), "fc1.bias": (64,), "fc2.weight": (64, 64), "fc2.bias": (64,)}
    kinds = kinds_of(write(tmp_path / "a.pt", shapes | {"z.weight": (64, 64)}))
    assert kinds == {"fc1.weight": SkipReason.BIAS, "fc2.weight": SkipReason.BIAS, "z.weight": True}


def test_a_layer_that_only_its_shape_makes_a_head_says_how_to_prune_it(tmp_path: Path) -> None:
    shapes = {"c.weight": (16, 64, 3, 3), "fc.weight": (40, 60), "head.weight": (10, 40)}
    path = tmp_path / "a.pt"
    write(path, shapes)
    report = rmtcli.prune(path, keep="rank:k=2", selection=Selection(convolutions=True),
                          dry_run=True)  # fmt: skip
    fates = {plan.layer.name: plan.untouched for plan in report.layers}
    assert fates == {
        "c.weight": Untouched.NARROW,
        "fc.weight": None,
        "head.weight": Untouched.HEAD,
    }
    for reason in (Untouched.NARROW, Untouched.HEAD):
        assert "--include" in reason.value
    write(path, {"c.weight": (16, 64, 3, 3), "fc.weight": (40, 64)})
    only = [item for item in find_layers(open_checkpoint(path)) if isinstance(item, Layer)]
    assert [(layer.head, layer.narrow) for layer in only] == [(True, True)]


NARROW = {
    "conv1.weight": (16, 8, 3),
    "conv2.weight": (16, 16, 5),
    "conv3.weight": (20, 16, 5),
    "fc.weight": (16, 80),
    "up.weight": (64, 16),
    "logits.weight": (16, 64),
}


def test_layers_whose_outputs_later_layers_read_are_no_heads(tmp_path: Path) -> None:
    selection = Selection(convolutions=True)
    write(tmp_path / "a.pt", NARROW)
    kinds = {x.name: x for x in find_layers(open_checkpoint(tmp_path / "a.pt"), selection)}
    assert [name for name in NARROW if kinds[name].head] == ["logits.weight"]  # type: ignore[union-attr]
    # Without an order, only names that differ in a number tell which layers are later.
    save_file({name: torch.randn(shape) for name, shape in NARROW.items()},
              tmp_path / "a.safetensors")  # fmt: skip
    items = find_layers(open_checkpoint(tmp_path / "a.safetensors"), selection)
    heads = {x.name: x.narrow for x in items if isinstance(x, Layer) and x.head}
    assert heads == {"conv3.weight": True, "fc.weight": True, "logits.weight": False}
