"""Pickles that call for more than weights, in every part of a file that torch unpickles."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from tests.attacks import CANARY, attack

_TEXT = b"X" + struct.pack("<I", len(CANARY)) + CANARY.encode()
_SHORT = b"\x8c" + bytes([len(CANARY)]) + CANARY.encode()
#: Opcodes -> a pickle that creates a folder with them if it is loaded.
PAYLOADS = {
    "REDUCE": b"\x80\x02cposix\nmkdir\n" + _TEXT + b"\x85R.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x05mkdir\x93" + _SHORT + b"\x85R.",
    "INST": b"(" + _TEXT + b"iposix\nmkdir\n.",
    "OBJ": b"(cposix\nmkdir\n" + _TEXT + b"o.",
    "NEWOBJ": b"\x80\x02csubprocess\nPopen\n]" + _TEXT + b"a\x85\x81.",
    "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n]" + _TEXT + b"a\x85}\x92.",
    "EXT1": b"\x80\x02\x82\x01.",
    "BUILD of an object": b"\x80\x02cargparse\nNamespace\n)\x81}"
    + b"X\x01\x00\x00\x00acposix\nmkdir\n"
    + _TEXT
    + b"\x85Rsb.",
    "eval": b"\x80\x02c__builtin__\neval\nX\x1b\x00\x00\x00__import__('os').mkdir('o')\x85R.",
    "getattr of an allowed module": b"\x80\x02ctorch\nos.mkdir\n" + _TEXT + b"\x85R.",
    "torch.load of another pickle": b"\x80\x02ctorch.serialization\nload\n" + _TEXT + b"\x85R.",
    "torch.hub": b"\x80\x02ctorch.hub\nload\n" + _TEXT + _TEXT + b"\x86R.",
    "a persistent name": b"Pposix.mkdir('owned')\n.",
}
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
PROTOCOL = pickle.dumps(1001, 2)
SYSTEM = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2)


def archive(path: Path, entries: dict[str, bytes], root: str = "archive") -> None:
    """Write a zip archive as torch does."""
    whole = {"data.pkl": pickle.dumps({}, 2), "byteorder": b"little", "version": b"3\n"} | entries
    with zipfile.ZipFile(path, "w") as file:
        for name, data in whole.items():
            file.writestr(f"{root}/{name}", data)


def saved(value: Any, path: Path) -> dict[str, bytes]:
    """Save a value with torch; return the archive's entries."""
    torch.save(value, path)
    with zipfile.ZipFile(path) as file:
        return {name.partition("/")[2]: file.read(name) for name in file.namelist()}


for _name, _payload in PAYLOADS.items():

    @attack(f"pickle: {_name} in data.pkl")
    def _swapped(folder: Path, payload: bytes = _payload) -> str:
        archive(folder / "a.pt", {"data.pkl": payload})
        return "prune a.pt"

    @attack(f"pickle: {_name} without an archive")
    def _bare(folder: Path, payload: bytes = _payload) -> str:
        (folder / "a.ckpt").write_bytes(payload)
        return "analyze a.ckpt"


for _part in range(5):

    @attack(f"pickle: REDUCE in part {_part + 1} of 5 of a legacy file")
    def _legacy(folder: Path, part: int = _part) -> str:
        parts = [MAGIC, PROTOCOL, SYSTEM, pickle.dumps({}, 2), pickle.dumps([], 2)]
        parts[part] = PAYLOADS["REDUCE"]
        (folder / "a.pt").write_bytes(b"".join(parts))
        return "info a.pt"


@attack("pickle: a shard of a directory")
def _shard(folder: Path) -> str:
    (folder / "m").mkdir()
    (folder / "m/config.json").write_text('{"model_type": "bert"}')
    archive(folder / "m/pytorch_model.bin", {"data.pkl": PAYLOADS["REDUCE"]})
    return "prune m"


@attack("pickle: the oldest format, a tar")
def _tar(folder: Path) -> str:
    with tarfile.open(folder / "a.pt", "w") as file:
        for name in ("sys_info", "pickle", "tensors", "storages", f"../{CANARY}"):
            entry = tarfile.TarInfo(name)
            entry.size = len(PAYLOADS["REDUCE"])
            file.addfile(entry, io.BytesIO(PAYLOADS["REDUCE"]))
    return "prune a.pt"


@attack("pickle: an archive instead of a storage", code=0)
def _nested(folder: Path) -> str:
    archive(folder / "inner.pt", {"data.pkl": PAYLOADS["REDUCE"]})
    inner = (folder / "inner.pt").read_bytes()
    entries = saved({"a.weight": torch.zeros(40, 40)}, folder / "a.pt")
    entries["data/0"] = inner.ljust(len(entries["data/0"]), b"\0")
    archive(folder / "a.pt", entries)
    return "info a.pt"


@attack("pickle: two entries named data.pkl")
def _twice(folder: Path) -> str:
    archive(folder / "a.pt", saved({"a.weight": torch.zeros(40, 40)}, folder / "a.pt"))
    with warnings.catch_warnings(), zipfile.ZipFile(folder / "a.pt", "a") as file:
        warnings.simplefilter("ignore")
        file.writestr("archive/data.pkl", PAYLOADS["REDUCE"])
    return "prune a.pt"


@attack("pickle: an archive behind a pickle")
def _polyglot(folder: Path) -> str:
    archive(folder / "b.pt", saved({"a.weight": torch.zeros(40, 40)}, folder / "b.pt"))
    (folder / "a.pt").write_bytes(PAYLOADS["REDUCE"] + (folder / "b.pt").read_bytes())
    return "prune a.pt"


@attack("pickle: a storage outside of the archive")
def _outside(folder: Path) -> str:
    entries = saved({"a.weight": torch.zeros(40, 40)}, folder / "a.pt")
    short = entries["data.pkl"]
    long = short.replace(b"X\x01\x00\x00\x000", b"X\x0b\x00\x00\x00../../etc/x")
    assert long != short
    archive(folder / "a.pt", entries | {"data.pkl": long})
    return "prune a.pt"


def _state(folder: Path, extra: bytes) -> str:
    """Write a state dict with one more entry, which the given opcodes make."""
    entries = saved({"a.weight": torch.zeros(40, 40)}, folder / "a.pt")
    end = entries["data.pkl"].removesuffix(b".").removesuffix(b"s")
    assert end + b"s." == entries["data.pkl"]
    entries["data.pkl"] = end + b"sX\x05\x00\x00\x00extra" + extra + b"s."
    archive(folder / "a.pt", entries)
    return "prune a.pt --keep rank:k=2 --min-side 0 --layout dense"


@attack("pickle: an array of 2^40 bytes")
def _bytearray(folder: Path) -> str:
    return _state(
        folder, b"c__builtin__\nbytearray\n\x8a\x06" + (2**40).to_bytes(6, "little") + b"\x85R"
    )


@attack("pickle: a storage of 2^40 values")
def _storage(folder: Path) -> str:
    return _state(
        folder, b"ctorch\nFloatStorage\n\x8a\x06" + (2**40).to_bytes(6, "little") + b"\x85R"
    )


@attack("pickle: a text of a megabyte encoded 4000 times")
def _laughs(folder: Path) -> str:
    text = b"c_codecs\nencode\nq\xf0X" + struct.pack("<I", 2**20) + b"a" * 2**20 + b"q\xf1"
    again = b"h\xf0h\xf1X\x05\x00\x00\x00ascii\x86Ra"
    return _state(folder, b"]" + text + b"\x86Ra" + again * 4000)


@attack("pickle: a key that is a tuple of tuples, 2^24 texts in all")
def _key(folder: Path) -> str:
    key = b"X\x10\x00\x00\x00" + b"a" * 16 + b"q\xf0"
    for _ in range(24):
        key += b"h\xf0h\xf0\x86q\xf0"
    _state(folder, b"N")
    with zipfile.ZipFile(folder / "a.pt") as file:
        entries = {name.partition("/")[2]: file.read(name) for name in file.namelist()}
    data = entries["data.pkl"].removesuffix(b"s.")
    entries["data.pkl"] = data + b"s" + key + b"Ns."
    archive(folder / "a.pt", entries)
    return "info a.pt"


@attack("pickle: lists a hundred thousand deep", code=1)
def _deep(folder: Path) -> str:
    return _state(folder, b"]" * 100_000 + b"a" * 99_999)


def _view(folder: Path, size: int) -> None:
    value = torch.zeros(1).expand(size, size)
    entries = saved({"a.weight": value, "b.weight": torch.ones(40, 40)}, folder / "a.pt")
    archive(folder / "a.pt", entries)


@attack("pickle: a tensor of 2^40 entries that are one number", code=0)
def _expanded(folder: Path) -> str:
    _view(folder, 2**20)
    return "info a.pt"


@attack("pickle: a tensor of 2^40 entries that are one number, converted")
def _converted(folder: Path) -> str:
    _view(folder, 2**20)
    return "prune a.pt --keep rank:k=2 --min-side 0 -o b.safetensors"


@attack("pickle: a tensor of 2^62 entries on no device", code=0)
def _meta(folder: Path) -> str:
    value = torch.empty(2**31, 2**30, dtype=torch.uint8, device="meta")
    archive(folder / "a.pt", saved({"a.weight": value, "b": torch.ones(4, 4)}, folder / "a.pt"))
    return "info a.pt"


@attack("pickle: a sparse tensor of 2^62 entries", code=0)
def _sparse(folder: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = torch.zeros(2, 1, dtype=torch.long)
        value = torch.sparse_coo_tensor(index, [1.0], (2**31, 2**31))
    archive(folder / "a.pt", saved({"a.weight": value, "b": torch.ones(4, 4)}, folder / "a.pt"))
    return "info a.pt"


@attack("pickle: BUILD replaces a dict's methods with plain values")
def _methods(folder: Path) -> str:
    from collections import OrderedDict

    state = OrderedDict({"a.weight": torch.zeros(40, 40)})
    vars(state)["mitem"] = 5
    entries = saved(state, folder / "a.pt")
    entries["data.pkl"] = entries["data.pkl"].replace(b"mitem", b"items")
    archive(folder / "a.pt", entries)
    return "prune a.pt"


@attack("pickle: BUILD replaces a tensor's methods with plain values", code=0)
def _tensor(folder: Path) -> str:
    value = torch.nn.Parameter(torch.zeros(40, 40))
    entries = saved({"a.weight": value, "b": torch.ones(4, 4)}, folder / "a.pt")
    value.mine = 5  # type: ignore[attr-defined]
    entries = saved({"a.weight": value, "b": torch.ones(4, 4)}, folder / "a.pt")
    data = entries["data.pkl"].replace(b"X\x04\x00\x00\x00mine", b"X\x05\x00\x00\x00numel")
    assert data != entries["data.pkl"]
    archive(folder / "a.pt", entries | {"data.pkl": data})
    return "info a.pt"


@attack("pickle: a legacy storage of 2^40 values")
def _legacy_storage(folder: Path) -> str:
    torch.save(
        {"a.weight": torch.zeros(200)}, folder / "a.pt", _use_new_zipfile_serialization=False
    )
    data = (folder / "a.pt").read_bytes()
    lies = data.replace(b"K\xc8", b"\x8a\x06" + (2**40).to_bytes(6, "little"))
    assert lies != data
    (folder / "a.pt").write_bytes(lies)
    return "info a.pt"
