"""Tensors in few bits: their bytes, and files that hold them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from rmtcli.checkpoint import Edited, Manifest, decode, encode, open_checkpoint, write_checkpoint
from rmtcli.checkpoint.packing import Packed, pack, unpack
from rmtcli.errors import CheckpointError
from tests.conftest import noise


def packed(codes: np.ndarray, scales: np.ndarray, bits: int, shape: tuple[int, int]) -> Packed:
    words, halves = encode(pack(codes, bits), "I32"), encode(scales, "F16")
    return Packed("F32", shape, words, halves)


@given(bits=st.integers(2, 8), rows=st.integers(1, 5), entries=st.integers(1, 100), data=st.data())
def test_codes_come_back(bits: int, rows: int, entries: int, data: st.DataObject) -> None:
    least = -(2 ** (bits - 1))
    seed = data.draw(st.integers(0, 999))
    codes = np.random.default_rng(seed).integers(least, -least, (rows, entries)).astype(np.int8)
    words = pack(codes, bits)
    assert words.shape == (rows, -(-entries * bits // 32))
    assert np.array_equal(unpack(words, bits, entries), codes)


def test_the_written_bytes_are_those_of_compressed_tensors() -> None:
    # Three bits each, raised by four: 4, 5, 6, 7, 0, 1, 2, 3, … from the lowest bit on.
    codes = np.array([[0, 1, 2, 3, -4, -3, -2, -1, 0, 1, 2, 3]], np.int8)
    stream = 0
    for i, code in enumerate(codes[0]):
        stream |= (int(code) + 4) << (3 * i)
    assert pack(codes, 3).view(np.uint32).tolist() == [[stream & 0xFFFFFFFF, stream >> 32]]
    assert pack(np.array([[-8, 7, 0, 1]], np.int8), 4).view(np.uint32).tolist() == [[0x98F0]]


@pytest.mark.parametrize("entries", [32, 40, 64, 65, 100, 129, 384])
@pytest.mark.parametrize("group", [16, 32, 64, 128])
def test_bits_and_group_follow_from_the_shapes(entries: int, group: int) -> None:
    groups = -(-entries // group)
    for bits in range(2, 9):
        tensor = packed(np.zeros((3, entries), np.int8), np.ones((3, groups)), bits, (3, entries))
        tensor.check("a")
        assert tensor.bits == bits
        assert tensor.group == (group if groups > 1 else entries)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    tensors = {"fc.weight": noise((6, 70)), "fc.bias": noise((6, 1))[:, 0], "norm": noise((9, 1))}
    save_file({name: x.astype("f4") for name, x in tensors.items()}, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def rounded(path: Path) -> Edited:
    """The network with its weight in four bits."""
    source = open_checkpoint(path)
    codes = np.arange(420).reshape(6, 70).astype(np.int8) % 16 - 8
    scales = np.linspace(0.5, 1, 12).reshape(6, 2).astype("f2").astype("f4")
    tensor = packed(codes.astype(np.int8), scales, 4, (6, 70))
    record = Manifest("1", "a", "b", "auto", "bema", {}, packed={"fc.weight": tensor.record})
    return Edited(source, {"fc.weight": {"fc.weight": tensor}}, record)


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_a_file_reads_as_the_network_that_it_stands_for(network: Path, ending: str) -> None:
    edited = rounded(network)
    target = network.with_name(f"b.{ending}")
    write_checkpoint(edited, target)
    written = open_checkpoint(target)
    assert list(written.infos) == list(edited.infos)
    assert np.array_equal(written.array("fc.weight"), decode(edited.raw("fc.weight")))
    assert written.parameters == edited.parameters == 420 + 6 + 9
    # 6 rows of 70 codes of 4 bits in 9 words, 2 scales of 16 bits, a shape of two numbers.
    assert written.bytes == edited.bytes == 6 * (36 + 4) + 16 + 4 * (6 + 9)
    again = network.with_name(f"c.{ending}")
    write_checkpoint(Edited(written, {}, written.manifest), again)
    assert open_checkpoint(again).bytes == written.bytes


def test_without_a_record_the_values_are_written(network: Path) -> None:
    write_checkpoint(rounded(network), network.with_name("b.safetensors"))
    written = open_checkpoint(network.with_name("b.safetensors"))
    for ending in ("safetensors", "pt"):
        target = network.with_name(f"c.{ending}")
        write_checkpoint(Edited(written, {}, None), target)
        assert open_checkpoint(target).bytes == 4 * (420 + 6 + 9)


def break_shape(tensors: dict[str, np.ndarray]) -> None:
    tensors["fc.weight_shape"] = np.array([6, 80])


def break_codes(tensors: dict[str, np.ndarray]) -> None:
    tensors["fc.weight_packed"] = tensors["fc.weight_packed"][:, :1].copy()


def break_rows(tensors: dict[str, np.ndarray]) -> None:
    tensors["fc.weight_scale"] = tensors["fc.weight_scale"][:5].copy()


def break_groups(tensors: dict[str, np.ndarray]) -> None:
    tensors["fc.weight_scale"] = np.ones((6, 69), "f2")


def break_sides(tensors: dict[str, np.ndarray]) -> None:
    tensors["fc.weight_shape"] = np.array([6, 70, 1])


@pytest.mark.parametrize(
    "damage", [break_shape, break_codes, break_rows, break_groups, break_sides]
)
def test_parts_that_do_not_fit_are_refused_by_name(network: Path, damage: object) -> None:
    target = network.with_name("b.safetensors")
    write_checkpoint(rounded(network), target)
    tensors = load_file(target)
    damage(tensors)  # type: ignore[operator]
    save_file(tensors, target)
    with pytest.raises(CheckpointError, match=r"b\.safetensors: 'fc\.weight'"):
        open_checkpoint(target)


def test_scales_that_are_not_finite_are_refused_by_name(network: Path) -> None:
    target = network.with_name("b.safetensors")
    write_checkpoint(rounded(network), target)
    save_file(load_file(target) | {"fc.weight_scale": np.full((6, 2), np.inf, "f2")}, target)
    with pytest.raises(CheckpointError, match=r"b\.safetensors: 'fc\.weight': damaged scales"):
        open_checkpoint(target).raw("fc.weight")


def test_a_tensor_with_zero_points_is_of_another_kind(network: Path) -> None:
    target = network.with_name("b.safetensors")
    write_checkpoint(rounded(network), target)
    save_file(load_file(target) | {"fc.weight_zero_point": np.zeros((6, 2), "i4")}, target)
    assert "fc.weight_packed" in open_checkpoint(target).infos
