"""Adapters are read as PEFT and sd-scripts mean them, and written so that these read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from rmtcli.adapters import AdaptedLayer, Adapter, Kind, Style, read_adapter, write_adapter
from rmtcli.checkpoint import decode, encode
from rmtcli.errors import CheckpointError, RmtcliError, UsageError
from tests.adapters.made import (
    CONFIG,
    PREFIX,
    kohya_file,
    kohya_tensors,
    lora,
    pair,
    peft_directory,
    two_layers,
)


def _product(layer: AdaptedLayer) -> np.ndarray:
    left, right = layer.factors()
    return layer.scale * left @ right


def test_a_directory_is_read_with_its_scales(tmp_path: Path) -> None:
    config = CONFIG | {
        "rank_pattern": {"v": 2},
        "alpha_pattern": {r"layers\.\d\.v": 5},
        "base_model_name_or_path": "base",
    }
    tensors = lora("layers.0.q", *pair(12, 10)) | lora("layers.0.v", *pair(8, 10, 2))
    read = read_adapter(peft_directory(tmp_path / "adapter", tensors, config))
    assert [(x.module, x.shape, x.rank, x.scale) for x in read.layers] == [
        ("layers.0.q", (12, 10), 4, 2.0),
        ("layers.0.v", (8, 10), 2, 2.5),
    ]
    assert read.base == "base"
    left, right = pair(12, 10)
    np.testing.assert_array_equal(_product(read.layers[0]), 2.0 * left.double() @ right.double())


def test_rank_stabilised_scales_divide_by_the_root(tmp_path: Path) -> None:
    folder = peft_directory(tmp_path / "adapter", two_layers(), CONFIG | {"use_rslora": True})
    assert {layer.scale for layer in read_adapter(folder).layers} == {4.0}


def test_a_file_of_sd_scripts_without_alpha_has_scale_one(tmp_path: Path) -> None:
    file = kohya_file(tmp_path / "a.safetensors", kohya_tensors(a_to_q__alpha=None))
    linear, kernel = read_adapter(file).layers
    assert (linear.module, linear.scale, linear.kind) == ("lora_unet_a_to_q", 1.0, Kind.LINEAR)
    assert (kernel.shape, kernel.kind) == ((12, 27), Kind.CONVOLUTION)


@pytest.mark.parametrize("style", list(Style))
def test_what_was_read_is_written_again(tmp_path: Path, style: Style) -> None:
    if style is Style.PEFT:
        source, target = peft_directory(tmp_path / "in", two_layers()), tmp_path / "out"
    else:
        source = kohya_file(tmp_path / "in.safetensors", kohya_tensors())
        target = tmp_path / "out.safetensors"
    first = read_adapter(source)
    write_adapter(first, target)
    again = read_adapter(target)
    assert again.style is style
    for one, other in zip(first.layers, again.layers, strict=True):
        assert (one.module, one.scale, one.kind) == (other.module, other.scale, other.kind)
        np.testing.assert_array_equal(one.left.read().data, other.left.read().data)
        np.testing.assert_array_equal(one.right.read().data, other.right.read().data)
    with pytest.raises(UsageError, match="force="):
        write_adapter(first, target)
    write_adapter(first, target, force=True)


def test_the_header_says_the_ranks_as_they_are(tmp_path: Path) -> None:
    read = read_adapter(kohya_file(tmp_path / "a.safetensors", kohya_tensors()))
    write_adapter(replace(read, layers=read.layers[1:]), tmp_path / "b.safetensors")
    with safe_open(tmp_path / "b.safetensors", "np") as written:
        metadata = written.metadata()
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("4", "4")
    assert metadata["ss_x"] == "y"
    assert "sshs_model_hash" not in metadata  # it was that of other tensors


def _adapter(ranks: dict[str, tuple[int, float]], **fields: Any) -> Adapter:
    """An adapter of these modules, with ranks and alphas."""
    layers = []
    for module, (rank, alpha) in ranks.items():
        left, right = (encode(x.numpy(), "F32") for x in pair(12, 10, rank))
        layers.append(AdaptedLayer(module, left, right, alpha))
    return Adapter(Path("made"), tuple(layers), **fields)


def test_patterns_name_modules_exactly(tmp_path: Path) -> None:
    """A pattern matches the end of a name: 'fc' must not change the rank of 'decoder.fc'."""
    ranks = {"decoder.fc": (4, 8), "fc": (2, 4), "encoder.fc": (3, 6), "x.encoder.fc": (4, 8)}
    write_adapter(_adapter(ranks), tmp_path / "out")
    read = read_adapter(tmp_path / "out")
    assert {x.module: (x.rank, x.alpha) for x in read.layers} == ranks
    written = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"]) == (4, 8)
    assert set(written["target_modules"]) == set(ranks)


def test_tensors_of_the_base_keep_their_names(tmp_path: Path) -> None:
    head = encode(np.ones((3, 12), np.float32), "F32")
    table = encode(np.ones((5, 10), np.float32), "BF16")
    adapter = _adapter({"emb": (2, 2)}, saved={"head.weight": head, "emb.weight": table})
    write_adapter(adapter, tmp_path / "out")
    with safe_open(tmp_path / "out" / "adapter_model.safetensors", "np") as written:
        assert f"{PREFIX}head.weight" in written.keys()  # noqa: SIM118
        assert f"{PREFIX}emb.base_layer.weight" in written.keys()  # noqa: SIM118
    again = read_adapter(tmp_path / "out")
    assert set(again.saved) == {"head.weight", "emb.weight"}
    assert again.config["modules_to_save"] == ["head"]
    np.testing.assert_array_equal(decode(again.saved["emb.weight"].read()), np.ones((5, 10)))


def test_kohyas_names_are_made_of_a_networks_own(tmp_path: Path) -> None:
    write_adapter(_adapter({"mid.q": (2, 4)}), tmp_path / "out.safetensors", style="kohya")
    (layer,) = read_adapter(tmp_path / "out.safetensors").layers
    assert (layer.module, layer.scale) == ("lora_unet_mid_q", 2.0)
    both = _adapter({"a.b_c": (2, 4), "a_b.c": (2, 4)})
    with pytest.raises(UsageError, match=r"'a\.b_c' and 'a_b\.c' would both be named"):
        write_adapter(both, tmp_path / "both.safetensors", style="kohya")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "IA3"}, "'peft_type' is 'IA3': only LORA is supported"),
        ({"r": 8}, "'layers.0.q' has rank 4, and adapter_config.json says 8"),
        ({"r": 0}, "'r' is 0, which is not a whole number from 1 on"),
        ({"r": None}, "'r' is None"),
        ({"lora_alpha": float("nan")}, "'lora_alpha' is nan, which is not a number"),
        ({"use_dora": True}, "'layers.0.q' has no lora_magnitude"),
        ({"rank_pattern": {"(q": 4}}, "is not a regular expression"),
        ({"rank_pattern": {"(a|a)*b": 4}}, "may take too long to match"),
        ({"alpha_pattern": ["q"]}, "'alpha_pattern' is not an object"),
        ({"layer_replication": [[0, 1]]}, "uses 'layer_replication'"),
        ({"init_lora_weights": "pissa"}, "changes the base's weights when the adapter is loaded"),
    ],
)
def test_configurations_that_are_refused(
    tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    folder = peft_directory(tmp_path / "adapter", two_layers(), CONFIG | config)
    with pytest.raises(CheckpointError) as caught:
        read_adapter(folder)
    assert words in str(caught.value)


Change = Callable[[dict[str, torch.Tensor]], object]
Q = f"{PREFIX}layers.0.q"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x.pop(f"{Q}.lora_B.weight"), "'layers.0.q' has no lora_B: not a whole adapter"),
        (lambda x: x.update({f"{Q}.lora_B.weight": torch.ones(12, 3)}), "of ranks 4 and 3"),
        (lambda x: x.update({f"{Q}.lora_B.weight": torch.ones(48)}), "no linear layer's"),
        (lambda x: x.update(lora("layers.0.q", *pair(12, 10, 0))), "has an empty factor"),
        (lambda x: x.update({f"{Q}.lora_A.weight": torch.ones(4, 2, dtype=torch.int32)}), "I32"),
        (lambda x: x.update({f"{Q}.lora_B.bias": torch.ones(12)}), "of a kind that rmtcli does"),
        (lambda x: x.update({"q.lora_A.weight": torch.ones(4, 2)}), "names begin with"),
        (lambda x: x.clear(), "holds no factors of LoRA"),
    ],
)
def test_tensors_that_are_refused(tmp_path: Path, change: Change, words: str) -> None:
    tensors = two_layers()
    change(tensors)
    with pytest.raises(CheckpointError) as caught:
        read_adapter(peft_directory(tmp_path / "adapter", tensors))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"a_to_q__lora_down__weight": None}, "'lora_unet_a_to_q' has no lora_down"),
        ({"a_to_q__alpha": torch.ones(2)}, "is not one number"),
        ({"a_to_q__alpha": torch.tensor(float("inf"))}, "has an alpha of inf"),
        (
            {"conv__lora_mid__weight": torch.ones(4, 4, 3, 3)},
            "a lora_mid of shape (4, 4, 3, 3)",
        ),
        ({"a_to_q__lora_mid__weight": torch.ones(4, 4)}, "has a lora_mid of shape (4, 4)"),
        ({"b__hada_w1_a": torch.ones(4, 4)}, "is part of LoHa"),
        ({"b__weight": torch.ones(4, 4)}, "is not part of an adapter in kohya's style"),
        ({"conv__lora_up__weight": torch.ones(12, 4, 3, 3)}, "no convolution layer's"),
    ],
)
def test_files_of_sd_scripts_that_are_refused(
    tmp_path: Path, changes: dict[str, torch.Tensor | None], words: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_adapter(kohya_file(tmp_path / "a.safetensors", kohya_tensors(**changes)))
    assert words in str(caught.value)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    tensors = two_layers()
    tensors[f"{Q}.lora_A.weight"][1, 2] = float("nan")
    read = read_adapter(peft_directory(tmp_path / "adapter", tensors))
    with pytest.raises(CheckpointError, match=r"'layers\.0\.q' has a factor with values that are"):
        read.layers[0].factors()


def test_folders_that_hold_no_whole_adapter(tmp_path: Path) -> None:
    folder = peft_directory(tmp_path / "adapter", two_layers())
    assert len(read_adapter(folder / "adapter_model.safetensors").layers) == 2
    (folder / "adapter_model.safetensors").rename(tmp_path / "a.safetensors")
    cases = [(folder, "has no adapter_model.safetensors"), (tmp_path, "has no adapter_config.json")]
    cases += [(tmp_path / "none", "no such file"), (tmp_path / "a.safetensors", "without its")]
    for path, words in cases:
        with pytest.raises(RmtcliError, match=words):
            read_adapter(path)


def test_a_directory_that_is_no_adapter_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="holds no model that could be replaced"):
        write_adapter(_adapter({"q": (2, 4)}), tmp_path / "out", force=True)
    with pytest.raises(UsageError, match="no layer is left"):
        write_adapter(Adapter(Path("made"), ()), tmp_path / "new")
