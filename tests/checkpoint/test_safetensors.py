from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file, save_model

from rmtcli.checkpoint import Edited, encode, open_checkpoint, write_checkpoint
from rmtcli.checkpoint.safetensors import natural_order
from rmtcli.errors import CheckpointError, UsageError

TYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.float8_e4m3fn,
]


@st.composite
def state_dicts(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
    names = draw(st.lists(st.text("abc.0é ", min_size=1, max_size=6), max_size=5, unique=True))
    state = {}
    for name in names:
        shape, dtype = draw(shapes), draw(st.sampled_from(TYPES))
        count = int(np.prod(shape)) * torch.empty(0, dtype=dtype).element_size()
        data = draw(st.binary(min_size=count, max_size=count))
        if dtype is torch.bool:
            data = bytes(byte & 1 for byte in data)
        flat = (
            torch.frombuffer(bytearray(data), dtype=dtype) if count else torch.empty(0, dtype=dtype)
        )
        state[name] = flat.reshape(shape)
    return state


def bits(value: torch.Tensor) -> bytes:
    return (
        value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=state_dicts(), note=st.text(max_size=9))
def test_reading_and_writing_changes_no_bit(
    tmp_path: Path, state: dict[str, torch.Tensor], note: str
) -> None:
    save_file(state, tmp_path / "a.safetensors", metadata={"note": note})
    source = open_checkpoint(tmp_path / "a.safetensors")
    write_checkpoint(source, tmp_path / "b.safetensors")
    again = load_file(tmp_path / "b.safetensors")
    assert {n: (t.dtype, t.shape, bits(t)) for n, t in again.items()} == {
        n: (t.dtype, t.shape, bits(t)) for n, t in state.items()
    }
    with safe_open(tmp_path / "b.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt", "note": note}


@pytest.mark.parametrize(
    ("source", "written"),
    [
        (None, {"format": "pt"}),
        ({"note": "x"}, {"format": "pt", "note": "x"}),
        ({"format": "mlx"}, {"format": "mlx"}),
    ],
)
def test_a_file_names_the_framework_without_which_transformers_refuses_it(
    tmp_path: Path, source: dict[str, str] | None, written: dict[str, str]
) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors", metadata=source)
    write_checkpoint(open_checkpoint(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    with safe_open(tmp_path / "b.safetensors", framework="np") as file:
        assert file.metadata() == written


def test_tensors_start_at_multiples_of_their_width(tmp_path: Path) -> None:
    state = {"a": torch.ones(3, dtype=torch.uint8), "b": torch.ones(2, dtype=torch.float64)}
    save_file(state, tmp_path / "a.safetensors")
    write_checkpoint(open_checkpoint(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    data = (tmp_path / "b.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    assert start % 8 == 0
    assert json.loads(data[8:start])["b"]["data_offsets"][0] % 8 == 0


def test_names_come_in_natural_order(tmp_path: Path) -> None:
    names = ["h.10.w", "h.2.w", "a", "h.2.b", "1", "10", "9x"]
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "a.safetensors")
    read = list(open_checkpoint(tmp_path / "a.safetensors").infos)
    assert read == ["1", "9x", "10", "a", "h.2.b", "h.2.w", "h.10.w"]
    assert sorted(names, key=natural_order) == read


def test_edits_replace_tensors(tmp_path: Path) -> None:
    state = {"fc.weight": torch.ones(2, 3), "other": torch.ones(4, dtype=torch.int64)}
    save_file(state, tmp_path / "a.safetensors")
    source = open_checkpoint(tmp_path / "a.safetensors")
    new = encode(np.full((2, 1), 3.0), "BF16")
    edited = Edited(source, {"fc.weight": {"fc.0.weight": new}}, None)
    assert (edited.parameters, edited.bytes) == (2, 4 + 32)
    write_checkpoint(edited, tmp_path / "b.safetensors")
    written = load_file(tmp_path / "b.safetensors")
    assert set(written) == {"fc.0.weight", "other"}
    assert torch.equal(written["fc.0.weight"], torch.full((2, 1), 3.0, dtype=torch.bfloat16))
    assert torch.equal(written["other"], state["other"])


def test_tensors_are_tied_if_all_bytes_are_equal(tmp_path: Path) -> None:
    a = torch.arange(3000.0)
    b = a.clone()
    b[-1] = 0
    save_file({"a": a, "b": b, "c": a.clone()}, tmp_path / "a.safetensors")
    source = open_checkpoint(tmp_path / "a.safetensors")
    assert source.ties(["a", "b", "c"]) == {"c": "a"}


class Tied(torch.nn.Module):
    """Three names of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (torch.nn.Linear(6, 6, bias=False) for _ in range(3))
        self.b.weight = self.c.weight = self.a.weight


def test_tied_names_are_stored_once_as_the_library_does(tmp_path: Path) -> None:
    torch.save(Tied().state_dict(), tmp_path / "a.pt")
    write_checkpoint(open_checkpoint(tmp_path / "a.pt"), tmp_path / "b.safetensors")
    save_model(Tied(), str(tmp_path / "c.safetensors"))
    assert list(load_file(tmp_path / "b.safetensors")) == ["a.weight"]
    assert load_model(Tied(), tmp_path / "b.safetensors") == (set(), [])
    for name in ("b", "c"):
        again = open_checkpoint(tmp_path / f"{name}.safetensors")
        assert list(again.infos) == ["a.weight", "b.weight", "c.weight"]
        assert again.aliases == {"b.weight": "a.weight", "c.weight": "a.weight"}
        assert (again.parameters, again.bytes) == (36, 144)
        write_checkpoint(again, tmp_path / f"{name}.pt")
        values = torch.load(tmp_path / f"{name}.pt").values()
        assert len({value.data_ptr() for value in values}) == 1


def test_an_alias_whose_weight_is_replaced_is_stored(tmp_path: Path) -> None:
    torch.save(Tied().state_dict(), tmp_path / "a.pt")
    source = open_checkpoint(tmp_path / "a.pt")
    edited = Edited(source, {"a.weight": {"a.new": encode(np.ones((1, 2)), "F32")}}, None)
    assert edited.aliases == {"c.weight": "b.weight"}
    assert edited.parameters == 2 + 36
    for name in ("b.safetensors", "b.pt"):
        write_checkpoint(edited, tmp_path / name)
        assert open_checkpoint(tmp_path / name).parameters == 2 + 36


def damaged(kind: str) -> bytes:
    good = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    whole = len(good).to_bytes(8, "little") + good + bytes(8)
    wrong = b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}'
    return {
        "truncated": whole[:-3],
        "only a length": whole[:8],
        "huge header": (2**62).to_bytes(8, "little") + good,
        "no json": (4).to_bytes(8, "little") + b"\x00\xff{]",
        "false shape": len(wrong).to_bytes(8, "little") + wrong + bytes(8),
        "text": b"this is no checkpoint at all",
        "long tail": whole + b"x",
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["truncated", "only a length", "huge header", "no json", "false shape", "text", "long tail"],
)
def test_damaged_files_are_reported_in_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(damaged(kind))
    with pytest.raises(CheckpointError, match="not a whole safetensors file") as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_paths_that_are_not_checkpoint_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(CheckpointError, match="the file is empty"):
        open_checkpoint(tmp_path / "empty.safetensors")
    with pytest.raises(UsageError, match="is a directory"):
        open_checkpoint(tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        open_checkpoint(tmp_path / "none.safetensors")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError, match=r"the ending must be one of \.safetensors, \.pt"):
        open_checkpoint(tmp_path / "a.txt")


def test_a_large_tensor_comes_in_pieces_of_whole_rows(tmp_path: Path) -> None:
    path, table = tmp_path / "a.safetensors", torch.randn(5001, 100)
    save_file({"table": table, "small": torch.ones(3)}, path)
    checkpoint = open_checkpoint(path)
    pieces = list(checkpoint.pieces("table"))
    assert len(pieces) == 2
    assert b"".join(x.data.tobytes() for x in pieces) == checkpoint.raw("table").data.tobytes()
    assert [x.shape[0] for x in pieces] == [2621, 2380]
    assert [x.shape for x in checkpoint.pieces("small")] == [(3,)]
