"""The bytes of files in few bits, against a packer and a reader written from the documentation."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import rmtcli
from rmtcli.checkpoint import Edited, Manifest, encode, open_checkpoint, write_checkpoint
from rmtcli.checkpoint.packing import Packed, pack
from rmtcli.quantization import ERRORS
from tests.conftest import noise

#: The bytes of 20 codes that count up from the smallest, by bits per code.
GOLDEN = {
    8: "000102030405060708090a0b0c0d0e0f10111213",
    6: "40200c44611c48a22c4ce33c50244d00",
    5: "2088418a3928a9c59a7b30ca09000000",
    4: "1032547698badcfe10320000",
    3: "88c6fa88c6fa8806",
    2: "e4e4e4e4e4000000",
}


def words(codes: np.ndarray, bits: int) -> bytes:
    """One row of codes as one long number, the first code in its lowest bits."""
    number = sum((int(code) + 2 ** (bits - 1)) << (bits * i) for i, code in enumerate(codes))
    return number.to_bytes(4 * -(-len(codes) * bits // 32), "little")


def ramp(rows: int, entries: int, bits: int) -> np.ndarray:
    """Codes that count upwards, through all values again and again."""
    numbers = np.arange(rows * entries).reshape(rows, entries)
    return (numbers % 2**bits - 2 ** (bits - 1)).astype(np.int8)


def stored(path: Path) -> dict[str, tuple[list[int], bytes]]:
    """Shape and bytes of each tensor of a safetensors or torch file."""
    if path.suffix == ".pt":
        tensors = torch.load(path)
        return {
            name: (list(x.shape), x.contiguous().view(torch.uint8).numpy().tobytes())
            for name, x in tensors.items()
        }
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8:start])
    header.pop("__metadata__", None)
    body = data[start:]
    return {
        name: (entry["shape"], body[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def values(tensors: dict[str, tuple[list[int], bytes]], name: str) -> np.ndarray:
    """The matrix that three tensors stand for."""
    (rows, row), packed = tensors[f"{name}_packed"]
    (_, groups), scales = tensors[f"{name}_scale"]
    shape = np.frombuffer(tensors[f"{name}_shape"][1], "<i8")
    entries = int(shape[1] if rows == shape[0] else shape[0])
    bits = row * 32 // entries
    group = 128 if groups > 1 else entries
    scale = np.frombuffer(scales, "<f2").reshape(rows, groups).astype(np.float32)
    matrix = np.empty((rows, entries), np.float32)
    for i in range(rows):
        number = int.from_bytes(packed[4 * row * i : 4 * row * (i + 1)], "little")
        for j in range(entries):
            code = (number >> (bits * j) & 2**bits - 1) - 2 ** (bits - 1)
            matrix[i, j] = code * scale[i, j // group]
    return matrix if rows == shape[0] else matrix.T


@pytest.mark.parametrize("bits", GOLDEN)
def test_a_row_of_codes_has_the_documented_bytes(bits: int) -> None:
    codes = ramp(1, 20, bits)
    assert pack(codes, bits).tobytes().hex() == words(codes[0], bits).hex() == GOLDEN[bits]


def test_the_documentation_has_these_bytes_and_a_reader_of_them() -> None:
    page = Path(__file__).parents[2].joinpath("docs/checkpoint-format.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d) \| `([0-9a-f ]+)` \|$", page, re.M)
    assert {int(bits): text.replace(" ", "") for bits, text in rows} == GOLDEN
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?def matrix.*?)```", page, re.S)[0], names)
    for bits, entries, wide in itertools.product(GOLDEN, (32, 140), (True, False)):
        codes = ramp(2, entries, bits)
        scales = np.arange(1, 2 * -(-entries // 128) + 1, dtype=np.float16).reshape(2, -1)
        shape = (2, entries) if wide else (entries, 2)
        packed = {"a_packed": pack(codes, bits), "a_scale": scales, "a_shape": np.array(shape)}
        tensors = {name: (list(x.shape), x.tobytes()) for name, x in packed.items()}
        assert np.array_equal(names["matrix"](packed, "a"), values(tensors, "a"))


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
@pytest.mark.parametrize("columnwise", [False, True])
def test_a_file_holds_the_documented_tensors(tmp_path: Path, ending: str, columnwise: bool) -> None:
    """Words, scales and shape of a matrix by rows and by columns, in every number of bits."""
    shape = (131, 3) if columnwise else (3, 131)
    save_file(
        {f"{b}.weight": noise(shape).astype("f4") for b in GOLDEN}, tmp_path / "a.safetensors"
    )
    source, edits, wanted = open_checkpoint(tmp_path / "a.safetensors"), {}, {}
    scales = np.array([[0.5, 1.0], [0.25, 3.0], [2.0**-14, 65504.0]], np.float16)
    for bits in GOLDEN:
        codes, name = ramp(3, 131, bits), f"{bits}.weight"
        parts = encode(pack(codes, bits), "I32"), encode(scales, "F16")
        edits[name] = {name: Packed("F32", shape, *parts)}
        wanted[f"{name}_packed"] = b"".join(words(row, bits) for row in codes)
        wanted[f"{name}_scale"] = scales.tobytes()
        wanted[f"{name}_shape"] = b"".join(side.to_bytes(8, "little") for side in shape)
    packed = {name: new[name].record for name, new in edits.items()}
    record = Manifest("1", "a", "b", "auto", "bema", {}, packed=packed)
    target = tmp_path / f"b.{ending}"
    write_checkpoint(Edited(source, edits, record), target)
    tensors = stored(target)
    assert {name: data for name, (_, data) in tensors.items()} == wanted
    written = open_checkpoint(target)
    for bits in GOLDEN:
        name = f"{bits}.weight"
        assert np.array_equal(values(tensors, name), written.array(name).astype(np.float32))


@pytest.mark.parametrize("bits", GOLDEN)
def test_the_bytes_of_a_rounded_network_stand_for_its_weights(tmp_path: Path, bits: int) -> None:
    """The error is that of rounding normal numbers to as many bits."""
    weights = {"a.weight": noise((40, 200)), "b.weight": noise((150, 40))}
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({name: x.astype("f4") for name, x in weights.items()}, source)
    rmtcli.prune(source, target, keep="fraction:of=1.0", bits=bits)
    tensors, written = stored(target), open_checkpoint(target)
    for name, weight in weights.items():
        matrix = values(tensors, name)
        assert np.array_equal(matrix, written.array(name).astype(np.float32))
        error = float(np.square(matrix - weight).sum() / np.square(weight).sum())
        assert error < 1.2 * ERRORS[bits]
