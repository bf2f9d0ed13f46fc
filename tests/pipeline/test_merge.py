"""Adapters are merged into plain files, and bases that they do not fit are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import rmtcli
from rmtcli.errors import CheckpointError, LayerError, RmtcliError, UsageError
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
from tests.conftest import Run


def _base(path: Path, **others: torch.Tensor) -> Path:
    """A network of the two layers that the small adapters change."""
    torch.manual_seed(0)
    tensors = {"layers.0.q.weight": torch.randn(12, 10), "layers.0.v.weight": torch.randn(8, 10)}
    save_file(tensors | others, path)
    return path


def test_a_plain_file_gets_the_changes(tmp_path: Path) -> None:
    base = _base(tmp_path / "base.safetensors", norm=torch.ones(3))
    adapter = peft_directory(tmp_path / "adapter", two_layers())
    report = rmtcli.merge(base, adapter, tmp_path / "merged.pt")
    before, after = load_file(base), torch.load(tmp_path / "merged.pt", weights_only=True)
    left, right = pair(12, 10)
    expected = before["layers.0.q.weight"] + 2.0 * (left @ right)
    torch.testing.assert_close(after["layers.0.q.weight"], expected)
    assert torch.equal(after["norm"], before["norm"])
    assert "2 layers changed" in report.notes[0]


def test_names_may_have_one_part_more_or_less(tmp_path: Path) -> None:
    """A network that was saved by another class, as GPT-2 on the Hub is."""
    base = _base(tmp_path / "base.safetensors")
    for name in ("transformer.layers.0.q", "0.q"):
        adapter = peft_directory(tmp_path / "adapter", lora(name, *pair(12, 10)))
        rmtcli.merge(base, adapter, tmp_path / "merged.safetensors", force=True)
        after = load_file(tmp_path / "merged.safetensors")
        assert not torch.equal(after["layers.0.q.weight"], load_file(base)["layers.0.q.weight"])


def test_kohyas_names_are_those_of_the_base_with_underscores(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {"a.to_q.weight": torch.randn(12, 10), "conv.weight": torch.randn(12, 3, 3, 3)}
    save_file(tensors, tmp_path / "base.safetensors")
    adapter = kohya_file(tmp_path / "style.safetensors", kohya_tensors(a_to_q__alpha=None))
    rmtcli.merge(tmp_path / "base.safetensors", adapter)
    after = load_file(tmp_path / "base.merged.safetensors")
    left, right = pair(12, 10)
    expected = tensors["a.to_q.weight"] + left @ right  # without an alpha, the scale is 1
    torch.testing.assert_close(after["a.to_q.weight"], expected)
    down = kohya_tensors()["lora_unet_conv.lora_down.weight"]
    change = torch.einsum("or,rikl->oikl", left, down)
    torch.testing.assert_close(after["conv.weight"], tensors["conv.weight"] + change)


def test_a_square_weight_of_a_file_is_transposed_as_the_adapter_says(tmp_path: Path) -> None:
    weight, (left, right) = torch.zeros(6, 6), pair(6, 6, 2)
    save_file({"q.weight": weight}, tmp_path / "base.safetensors")
    for transposed in (False, True):
        config = CONFIG | {"r": 2, "lora_alpha": 2, "fan_in_fan_out": transposed}
        adapter = peft_directory(tmp_path / "adapter", lora("q", left, right), config)
        rmtcli.merge(tmp_path / "base.safetensors", adapter, tmp_path / "out.pt", force=True)
        after = torch.load(tmp_path / "out.pt", weights_only=True)["q.weight"]
        product = left @ right
        torch.testing.assert_close(after, product.T if transposed else product)


def test_names_of_one_storage_change_together(tmp_path: Path) -> None:
    weight = torch.randn(12, 10)
    torch.save({"q.weight": weight, "head.weight": weight}, tmp_path / "base.pt")
    adapter = peft_directory(tmp_path / "adapter", lora("q", *pair(12, 10)))
    rmtcli.merge(tmp_path / "base.pt", adapter, tmp_path / "merged.pt")
    after = torch.load(tmp_path / "merged.pt", weights_only=True)
    assert after["q.weight"].data_ptr() == after["head.weight"].data_ptr()
    both = lora("q", *pair(12, 10)) | lora("head", *pair(12, 10, seed=1))
    peft_directory(adapter, both)
    with pytest.raises(LayerError, match="are one weight of the base"):
        rmtcli.merge(tmp_path / "base.pt", adapter, tmp_path / "other.pt")


def _replace(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    return two_layers() | {f"{PREFIX}{name}": value}


@pytest.mark.parametrize(
    ("tensors", "kind", "words"),
    [
        (lora("layers.1.q", *pair(12, 10)), LayerError, "has no 'layers.1.q.weight'"),
        (lora("layers.0.q", *pair(12, 9)), LayerError, "the adapter's change of it is 12 × 9"),
        (_replace("layers.0.v.bias", torch.ones(8)), LayerError, "has no 'layers.0.v.bias'"),
        (_replace("norm", torch.ones(4)), LayerError, "(3,), and the adapter's own (4,)"),
        (_replace("norm", torch.ones(3, dtype=torch.int64)), LayerError, "not fit the type"),
        (
            _replace("layers.0.q.lora_A.weight", torch.full((4, 10), torch.nan)),
            CheckpointError,
            "NaN or infinite",
        ),
        (
            _replace("layers.0.q.lora_A.weight", torch.full((4, 10), 1e38)),
            LayerError,
            "with its change exceeds float32",
        ),
    ],
)
def test_adapters_that_do_not_fit(
    tmp_path: Path, tensors: dict[str, torch.Tensor], kind: type[RmtcliError], words: str
) -> None:
    base = _base(tmp_path / "base.safetensors", norm=torch.ones(3))
    adapter = peft_directory(tmp_path / "adapter", tensors)
    with pytest.raises(kind) as caught:
        rmtcli.merge(base, adapter, tmp_path / "merged.safetensors")
    assert words in str(caught.value)
    assert not (tmp_path / "merged.safetensors").exists()


def test_bases_that_are_not_the_adapters(tmp_path: Path) -> None:
    """Factors that rmtcli wrote are other layers than those that the adapter was trained on."""
    torch.manual_seed(0)
    save_file({"fc.weight": torch.randn(60, 50)}, tmp_path / "base.safetensors")
    small = tmp_path / "small.safetensors"
    rmtcli.prune(tmp_path / "base.safetensors", small, keep="rank:k=4", selection=_ALL)
    adapter = peft_directory(tmp_path / "adapter", lora("fc", *pair(60, 50)))
    with pytest.raises(LayerError, match="densify first"):
        rmtcli.merge(small, adapter, tmp_path / "merged.safetensors")
    with pytest.raises(UsageError, match="is an input"):
        rmtcli.merge(tmp_path / "base.safetensors", adapter, tmp_path / "base.safetensors")


def _kohya_base(path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A base of the linear layer and the convolution of ``kohya_tensors``."""
    generator = torch.Generator().manual_seed(7)
    shapes = {"a_to_q.weight": (12, 10), "conv.weight": (12, 3, 3, 3)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(tensors, path)
    return path, tensors


def test_three_factors_of_a_convolution_are_merged(tmp_path: Path) -> None:
    """As three convolutions after each other: 1 × 1, the kernel, and 1 × 1."""
    torch.manual_seed(0)
    base, tensors = _kohya_base(tmp_path / "base.safetensors")
    down, mid, up = torch.randn(4, 3, 1, 1), torch.randn(4, 4, 3, 3), torch.randn(12, 4, 1, 1)
    style = kohya_file(
        tmp_path / "style.safetensors",
        kohya_tensors(
            conv__lora_down__weight=down, conv__lora_mid__weight=mid, conv__lora_up__weight=up
        ),
    )
    rmtcli.merge(base, style, tmp_path / "merged.safetensors")
    merged = load_file(tmp_path / "merged.safetensors")["conv.weight"]
    image = torch.randn(2, 3, 9, 9)
    conv = torch.nn.functional.conv2d
    expected = conv(image, tensors["conv.weight"]) + conv(conv(conv(image, down), mid), up)
    torch.testing.assert_close(conv(image, merged), expected, rtol=1e-4, atol=1e-4)
    assert rmtcli.analyze(style).layers[1].layer.shape == (12, 4)
    with pytest.raises(UsageError, match="is in three factors"):
        rmtcli.resize(style, tmp_path / "small.safetensors", max_rank=2)


def test_magnitudes_of_kohyas_style(tmp_path: Path) -> None:
    """Those of inputs mean one thing to LyCORIS and ComfyUI, and those of outputs two."""
    base = _kohya_base(tmp_path / "base.safetensors")[0]
    scales = {"a_to_q": torch.rand(1, 10) + 1, "conv": torch.rand(1, 3, 1, 1) + 1}
    parts = kohya_tensors(**{f"{name}__dora_scale": x for name, x in scales.items()})
    style = kohya_file(tmp_path / "style.safetensors", parts)
    rmtcli.merge(base, style, tmp_path / "merged.safetensors")
    merged = load_file(tmp_path / "merged.safetensors")
    plain = kohya_file(tmp_path / "plain.safetensors", kohya_tensors())
    rmtcli.merge(base, plain, tmp_path / "sums.safetensors")
    sums = load_file(tmp_path / "sums.safetensors")
    for name, scale in scales.items():
        whole = sums[f"{name}.weight"].transpose(0, 1).flatten(1)
        expected = whole * (scale.reshape(-1, 1) / whole.norm(dim=1, keepdim=True))
        own = merged[f"{name}.weight"].transpose(0, 1).flatten(1)
        torch.testing.assert_close(own, expected)
    outputs = kohya_tensors(a_to_q__dora_scale=torch.ones(12, 1))
    style = kohya_file(tmp_path / "outputs.safetensors", outputs)
    with pytest.raises(LayerError, match="LyCORIS divides by the norms of the changed weight"):
        rmtcli.merge(base, style, tmp_path / "none.safetensors")


_ALL: Any = rmtcli.Selection(include=["fc"])


def test_the_command_merges(rmtcli: Run, tmp_path: Path) -> None:
    base = _base(tmp_path / "base.safetensors")
    adapter = peft_directory(tmp_path / "adapter", two_layers())
    run = rmtcli("merge", base, adapter, "-o", tmp_path / "merged.safetensors", "-v")
    assert run.returncode == 0, run.stderr
    assert "2 layers changed" in run.stdout
    after = load_file(tmp_path / "merged.safetensors")
    assert np.isfinite(after["layers.0.q.weight"].numpy()).all()
    again = rmtcli("merge", base, adapter, "-o", tmp_path / "merged.safetensors")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
