from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rmtcli.checkpoint import Edited, Manifest, encode, open_checkpoint, write_checkpoint
from rmtcli.checkpoint.torch.file import TorchFile
from rmtcli.errors import CheckpointError

MANIFEST = Manifest("0", "a.pt", "00", "auto", "bema", {"fc": 1})


def state() -> OrderedDict[str, Any]:
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(fc=nn.Linear(4, 3), out=nn.Linear(3, 2))).state_dict()


def wrapped(kind: str) -> tuple[Any, tuple[str, ...]]:
    inner = state()
    return {
        "bare": (inner, ()),
        "plain dict": (dict(inner), ()),
        "state_dict": ({"state_dict": inner, "epoch": 3}, ("state_dict",)),
        "model_state_dict": ({"model_state_dict": inner, "lr": [0.1]}, ("model_state_dict",)),
        "model": ({"model": inner, "args": {"a": None}}, ("model",)),
        "nested": ({"model": {"state_dict": inner}, "x": (1, "y")}, ("model", "state_dict")),
        "beside a tensor": ({"loss": torch.tensor(0.5), "state_dict": inner}, ("state_dict",)),
        "lightning": (
            {
                "epoch": 1,
                "pytorch-lightning_version": "2.4",
                "state_dict": OrderedDict((f"model.{k}", v) for k, v in inner.items()),
                "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3, 4)}}}],
                "hyper_parameters": {"width": 4},
            },
            ("state_dict",),
        ),
    }[kind]


KINDS = [
    "bare",
    "plain dict",
    "state_dict",
    "model_state_dict",
    "model",
    "nested",
    "beside a tensor",
    "lightning",
]


def same(a: Any, b: Any) -> bool:
    """Whether two nested objects and the values of all tensors in them are equal."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", [".pt", ".pth", ".bin", ".ckpt"])
def test_everything_but_the_edits_is_kept(
    tmp_path: Path, kind: str, ending: str, legacy: bool
) -> None:
    tree, where = wrapped(kind)
    path, target = tmp_path / f"a{ending}", tmp_path / f"b{ending}"
    torch.save(tree, path, _use_new_zipfile_serialization=not legacy)
    source = open_checkpoint(path)
    assert TorchFile(path).where == where
    name = next(iter(source.infos))
    new = encode(np.full((3, 1), 2.0), "F32")
    write_checkpoint(Edited(source, {name: {"new": new, "newer": new}}, MANIFEST), target)
    expected: Any = tree
    for key in where:
        expected = expected[key]
    expected = {k: v for k, v in expected.items() if k != name}
    written = torch.load(target, weights_only=True)
    again = open_checkpoint(target)
    assert again.manifest == MANIFEST
    inner: Any = written
    for key in where:
        inner = inner[key]
    assert list(inner)[:2] == ["new", "newer"]
    assert torch.equal(inner["new"], torch.full((3, 1), 2.0))
    assert same({k: v for k, v in inner.items() if k not in ("new", "newer")}, expected)
    assert list(written) == list(tree) or where == ()
    beside = [key for key in tree if where and key != where[0]]
    assert all(same(written[key], tree[key]) for key in beside)
    assert again.extras == tuple(beside)


def test_the_versions_of_modules_are_kept(tmp_path: Path) -> None:
    original = state()
    torch.save(original, tmp_path / "a.pt")
    write_checkpoint(open_checkpoint(tmp_path / "a.pt"), tmp_path / "b.pt")
    assert torch.load(tmp_path / "b.pt")._metadata == original._metadata


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_values_of_every_type_are_exact(tmp_path: Path, dtype: torch.dtype) -> None:
    w = torch.randn(5, 7).to(dtype)
    torch.save({"w": w, "t": w.T, "slice": w[1:3, ::2]}, tmp_path / "a.pt")
    source = open_checkpoint(tmp_path / "a.pt")
    for name, expected in [("w", w), ("t", w.T), ("slice", w[1:3, ::2])]:
        np.testing.assert_array_equal(source.array(name), expected.double().numpy())


def test_names_of_one_storage_are_tied_and_stay_so(tmp_path: Path) -> None:
    w = torch.ones(3, 4)
    torch.save({"a": w, "b": w, "c": w.clone(), "d": w[:2]}, tmp_path / "a.pt")
    source = open_checkpoint(tmp_path / "a.pt")
    assert source.ties(["a", "b", "c", "d"]) == {"b": "a"}
    new = encode(np.ones((2, 2)), "F32")
    write_checkpoint(Edited(source, {"a": {"x": new}, "b": {"y": new}}, None), tmp_path / "b.pt")
    assert open_checkpoint(tmp_path / "b.pt").ties(["x", "y"]) == {"y": "x"}


def test_from_torch_to_safetensors_and_back(tmp_path: Path) -> None:
    torch.save({"model": state(), "epoch": 3}, tmp_path / "a.pt")
    write_checkpoint(open_checkpoint(tmp_path / "a.pt"), tmp_path / "b.safetensors")
    write_checkpoint(open_checkpoint(tmp_path / "b.safetensors"), tmp_path / "c.pt")
    assert same(dict(torch.load(tmp_path / "c.pt")), dict(sorted(state().items())))


def test_entries_that_safetensors_cannot_store_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2, 2), "z": torch.eye(2).to_sparse()}, tmp_path / "a.pt")
    source = open_checkpoint(tmp_path / "a.pt")
    write_checkpoint(source, tmp_path / "b.pt")
    assert torch.load(tmp_path / "b.pt")["z"].is_sparse
    with pytest.raises(CheckpointError, match="'z' cannot be stored in safetensors"):
        write_checkpoint(source, tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


class Payload:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_payload_is_refused_and_never_run(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "a.pt"
    tree = {"w": torch.ones(2, 2), "x": Payload(tmp_path / "owned")}
    torch.save(tree, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert str(caught.value) == (
        f"{path}: refused: its pickle calls for posix.mkdir, and only tensors and plain values "
        "are read (nothing was run): save model.state_dict() instead"
    )
    assert not (tmp_path / "owned").exists()


class Other(Payload):
    def __reduce__(self) -> Any:
        return os.rmdir, (str(self.path),)


def test_every_global_that_a_pickle_calls_for_is_named(tmp_path: Path) -> None:
    tree = {"w": torch.ones(2, 2), "x": Payload(tmp_path / "owned"), "y": Other(tmp_path)}
    torch.save(tree, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"calls for posix\.mkdir, posix\.rmdir, and only"):
        open_checkpoint(tmp_path / "a.pt")
    assert not (tmp_path / "owned").exists()


def test_a_bare_pickle_and_a_whole_module_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Payload(tmp_path / "owned")))
    torch.save(nn.Linear(2, 2), tmp_path / "b.pt")
    for name in ("a.pt", "b.pt"):
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert "torch.nn.modules.linear.Linear" in str(caught.value)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("size", [1, 10, 1500])
@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_files_are_reported_in_one_line(tmp_path: Path, size: int, legacy: bool) -> None:
    path = tmp_path / "a.pt"
    torch.save(state(), path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    path.write_bytes(whole[: min(size, len(whole) - 1)])
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: not a whole torch checkpoint")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"optimizer": {"state": {}}}, 5])
def test_files_without_a_state_dict_are_reported(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        open_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "text", ["", "no json", "[]", "{}", '{"factored": 3}', MANIFEST.to_json().replace("1", '"x"')]
)
def test_a_manifest_that_cannot_be_parsed_is_none(text: str) -> None:
    assert Manifest.from_json(text) is None
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST


def test_kept_views_do_not_keep_replaced_storages(tmp_path: Path) -> None:
    flat = torch.arange(10_000.0)
    views = {"a": flat[:9000].view(90, 100), "b": flat[9000:9500], "c": flat[9000:9500]}
    torch.save(views, tmp_path / "a.pt")
    source = open_checkpoint(tmp_path / "a.pt")
    small = encode(np.ones((2, 2)), "F32")
    write_checkpoint(Edited(source, {"a": {"x": small}}, None), tmp_path / "b.pt")
    assert (tmp_path / "b.pt").stat().st_size < 5_000
    written = open_checkpoint(tmp_path / "b.pt")
    np.testing.assert_array_equal(written.array("b"), np.arange(9000.0, 9500.0))
    assert written.ties(["b", "c"]) == {"c": "b"}


def test_a_slice_does_not_keep_its_storage(tmp_path: Path) -> None:
    """Neither in the file nor in what is counted; views that fill their storage continue to."""
    big, flat = torch.randn(1000, 64), torch.randn(20, 8)
    state = {"a": big[:10], "again": big[:10], "t": big[20:30].T, "x": flat[:12], "y": flat[12:]}
    torch.save(state, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size > 256_000
    source = open_checkpoint(tmp_path / "a.pt")
    assert (source.parameters, source.bytes) == (2 * 640 + 160, 4 * (2 * 640 + 160))
    for name in ("b.pt", "b.safetensors"):
        write_checkpoint(source, tmp_path / name)
        assert (tmp_path / name).stat().st_size < source.bytes + 4000
        assert open_checkpoint(tmp_path / name).parameters == source.parameters
    written = torch.load(tmp_path / "b.pt")
    assert same(written, state)
    storage = {name: value.untyped_storage().data_ptr() for name, value in written.items()}
    assert storage["a"] == storage["again"] != storage["t"]
    assert storage["x"] == storage["y"]


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
def test_unsigned_types_and_empty_tensors_round_trip(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {
        "u": torch.tensor([1, 2**15], dtype=dtype),
        "e": torch.empty(0, 3),
        "s": torch.tensor(2),
    }
    torch.save(tensors, tmp_path / "a.pt")
    write_checkpoint(open_checkpoint(tmp_path / "a.pt"), tmp_path / "b.safetensors")
    write_checkpoint(open_checkpoint(tmp_path / "b.safetensors"), tmp_path / "c.pt")
    converted = torch.load(tmp_path / "c.pt")
    assert {n: (t.dtype, t.shape, t.tolist()) for n, t in converted.items()} == {
        n: (t.dtype, t.shape, t.tolist()) for n, t in sorted(tensors.items())
    }


def test_a_dict_that_holds_itself_and_odd_names_are_read(tmp_path: Path) -> None:
    tree: dict[str, Any] = {"w": torch.ones(2, 2)}
    tree["model"] = tree
    torch.save(tree, tmp_path / "a.pt")
    assert "w" in open_checkpoint(tmp_path / "a.pt").infos
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/n\xff.pt"))
    torch.save({"w" + "1" * 5000: torch.ones(2, 2)}, tmp_path / "b.pt")
    (tmp_path / "b.pt").rename(odd)
    source = open_checkpoint(odd)
    write_checkpoint(source, tmp_path / "b.safetensors")
    assert list(open_checkpoint(tmp_path / "b.safetensors").infos) == list(source.infos)
