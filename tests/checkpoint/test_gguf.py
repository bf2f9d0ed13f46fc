"""GGUF files as checkpoints."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

import rmtcli
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import CheckpointError, UsageError
from tests.checkpoint.ggufs import (
    BF16,
    ENTRIES,
    F16,
    MAGIC,
    Q8_0,
    described,
    eight_bits,
    entry,
    gguf,
    plain,
    string,
)

RANDOM = np.random.default_rng(0)
UP, TABLE = RANDOM.standard_normal((96, 64)), RANDOM.standard_normal((200, 64))


def written(folder: Path, data: bytes) -> Path:
    (folder / "a.gguf").write_bytes(data)
    return folder / "a.gguf"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    half = (RANDOM.standard_normal(64).astype("<f4").view("<u4") >> 16).astype("<u2")
    return written(
        tmp_path,
        gguf(
            {
                "token_embd.weight": plain(TABLE, F16),
                "blk.0.ffn_up.weight": plain(UP),
                "blk.0.ffn_norm.weight": ((64,), BF16, half.tobytes()),
                "blk.0.ffn_down.weight": plain(UP.T),
            }
        ),
    )


def test_tensors_are_read_as_they_are(path: Path) -> None:
    checkpoint = open_checkpoint(path)
    assert checkpoint.form == "GGUF file"
    assert {name: (x.shape, x.dtype) for name, x in checkpoint.infos.items()} == {
        "token_embd.weight": ((200, 64), "F16"),
        "blk.0.ffn_up.weight": ((96, 64), "F32"),
        "blk.0.ffn_norm.weight": ((64,), "BF16"),
        "blk.0.ffn_down.weight": ((64, 96), "F32"),
    }
    assert checkpoint.metadata == {"general.architecture": "llama"}
    assert np.array_equal(checkpoint.array("blk.0.ffn_up.weight"), UP.astype("f4"))
    assert np.array_equal(checkpoint.array("token_embd.weight", (3, 5)), TABLE[3:5].astype("f2"))
    assert np.isfinite(checkpoint.array("blk.0.ffn_norm.weight")).all()


def test_it_is_analysed_and_pruned_to_another_format(path: Path, tmp_path: Path) -> None:
    report = rmtcli.analyze(path)
    names = [plan.layer.name for plan in report.layers]
    assert names == ["blk.0.ffn_up.weight", "blk.0.ffn_down.weight"]
    rmtcli.prune(path, tmp_path / "small.safetensors", keep="rank:k=5")
    layer, _ = rmtcli.diff(path, tmp_path / "small.safetensors").layers
    tail = np.linalg.svd(UP, compute_uv=False)[5:]
    assert layer.change == pytest.approx(np.linalg.norm(tail) / np.linalg.norm(UP), rel=1e-4)
    with pytest.raises(UsageError, match="read only"):
        rmtcli.prune(path, tmp_path / "b.gguf")


def test_blocks_of_few_bits_are_read_as_their_values(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    path = written(tmp_path, gguf({"blk.0.ffn_up.weight": eight_bits(UP)}))
    checkpoint = open_checkpoint(path)
    assert checkpoint.infos["blk.0.ffn_up.weight"].dtype == "F32"
    assert checkpoint.bytes == 96 * 2 * 34
    values = checkpoint.array("blk.0.ffn_up.weight")
    step = np.abs(UP.reshape(-1, 32)).max(1) / 127
    assert (np.abs(values - UP).reshape(-1, 32).max(1) <= 0.51 * step).all()
    assert np.array_equal(checkpoint.array("blk.0.ffn_up.weight", (7, 9)), values[7:9])


def test_blocks_without_the_package_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmtcli.checkpoint.gguf.file.find_spec", lambda name: None)
    path = written(tmp_path, gguf({"blk.0.ffn_up.weight": eight_bits(UP)}))
    with pytest.raises(UsageError, match="need gguf: pip install gguf"):
        open_checkpoint(path)


def header(tensors: int, keys: int, rest: bytes = b"") -> bytes:
    return MAGIC + struct.pack("<QQ", tensors, keys) + rest


HUGE = 2**62
#: Damaged and hostile files, and what their messages say.
BROKEN = {
    MAGIC: "ends within its header",
    b"GGUF" + struct.pack("<I", 1) + bytes(64): "of version 1",
    b"GGUF" + struct.pack(">I", 3) + bytes(64): "of a big-endian machine",
    header(HUGE, 0): "ends within its header",
    header(0, HUGE): "ends within its header",
    header(0, 1, struct.pack("<Q", HUGE)): "a text of",
    header(0, 1, string("a") + struct.pack("<I", 77)): "the unknown type 77",
    header(0, 1, entry("a", 9, struct.pack("<IQ", 4, HUGE))): "ends within its header",
    header(0, 1, entry("a", 9, struct.pack("<IQ", 8, HUGE))): "more than 10,000,000 strings",
    header(0, 1, entry("a", 9, struct.pack("<IQ", 9, 1))): "the unknown type 9",
    header(0, 1, entry("general.alignment", 4, bytes(4))): "aligned to 0 bytes",
    header(0, 1, entry("a", 8, struct.pack("<Q", 1) + b"\xff")): "not UTF-8",
    header(1, 0, described("a", [1] * 5, 0, 0)): "has 5 dimensions",
    header(1, 0, described("a", [HUGE, HUGE], 0, 0)): "'a' is beyond its end",
    header(1, 0, described("a", [2], 0, HUGE)): "'a' is beyond its end",
    header(2, 0, 2 * described("a", [0], 0, 0)): "two of its tensors have one name",
    gguf({"a": plain(UP)}, ENTRIES)[:-100]: "'a' is beyond its end",
}


@pytest.mark.parametrize("data", BROKEN, ids=range(len(BROKEN)))
def test_damaged_and_hostile_files_are_refused(data: bytes, tmp_path: Path) -> None:
    path = written(tmp_path, data)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert BROKEN[data] in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [(99, (2, 32), "unknown type 99"), (Q8_0, (2, 31), "no multiple of 32")],
)
def test_blocks_that_are_none_are_refused(
    kind: int, shape: tuple[int, int], message: str, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(written(tmp_path, gguf({"a": (shape, kind, bytes(99))})))
