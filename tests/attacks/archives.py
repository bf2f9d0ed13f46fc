"""Zip bombs, and the archives of TorchScript and torch.export."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
import zlib
from pathlib import Path

import torch
from torch import nn

from tests.attacks import CANARY, attack
from tests.attacks.pickles import PAYLOADS, archive, saved


def _entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name.partition("/")[2]: file.read(name) for name in file.namelist()}


def script(path: Path) -> dict[str, bytes]:
    """Write a TorchScript archive; return its entries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(nn.Sequential(nn.Linear(40, 48)), torch.ones(1, 40))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, path)  # type: ignore[no-untyped-call]
    return _entries(path)


def program(path: Path) -> dict[str, bytes]:
    """Write a torch.export archive; return its entries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(
            nn.Sequential(nn.Linear(40, 48)).eval(), (torch.ones(1, 40),)
        )
        buffer = io.BytesIO()
        torch.export.save(exported, buffer)
    path.write_bytes(buffer.getvalue())
    return _entries(path)


class _Once:
    """A compressor that compresses equal data once: its blocks do not depend on each other."""

    def __init__(self) -> None:
        self._blocks: dict[bytes, bytes] = {}

    def compress(self, data: bytes) -> bytes:
        if data not in self._blocks:
            deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
            self._blocks[data] = deflate.compress(data) + deflate.flush(zlib.Z_FULL_FLUSH)
        return self._blocks[data]

    def flush(self) -> bytes:
        return zlib.compressobj(9, zlib.DEFLATED, -15).flush()


def bomb(file: zipfile.ZipFile, name: str, part: bytes, times: int, *, first: bytes = b"") -> None:
    """Add a compressed entry: ``first``, then many times the same part."""
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    with file.open(info, "w", force_zip64=True) as entry:
        entry._compressor = _Once()  # type: ignore[attr-defined]
        entry.write(first)
        for _ in range(times):
            entry.write(part)


@attack("zip: a pickle of 1 GB in a megabyte")
def _bomb(folder: Path) -> str:
    entries = saved({"a.weight": torch.zeros(40, 40)}, folder / "a.pt")
    with zipfile.ZipFile(folder / "a.pt", "w", zipfile.ZIP_DEFLATED) as file:
        bomb(file, "archive/data.pkl", b"(" * 10**6, 1000)
        file.writestr("archive/data/0", entries["data/0"])
    return "prune a.pt"


@attack("zip: a storage of 1 GB in a megabyte")
def _storage(folder: Path) -> str:
    entries = saved({"a.weight": torch.zeros(16_000, 16_000, dtype=torch.int8)}, folder / "a.pt")
    with zipfile.ZipFile(folder / "a.pt", "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries.items():
            if name != "data/0":
                file.writestr(f"archive/{name}", data)
        bomb(file, "archive/data/0", bytes(10**6), 1024)
    return "info a.pt"


@attack("zip: TorchScript's pickle, 1 GB in a megabyte")
def _script_bomb(folder: Path) -> str:
    entries = script(folder / "a.pt")
    with zipfile.ZipFile(folder / "a.pt", "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries.items():
            if name != "data.pkl":
                file.writestr(f"archive/{name}", data)
        bomb(file, "archive/data.pkl", b"(" * 10**6, 1000)
    return "info a.pt"


@attack("zip: entries that share their bytes")
def _overlapping(folder: Path) -> str:
    archive(folder / "a.pt", saved({"a.weight": torch.zeros(1000, 1000)}, folder / "a.pt"))
    with zipfile.ZipFile(folder / "a.pt", "a") as file:
        first = file.getinfo("archive/data/0")
        for i in range(300):
            copy = zipfile.ZipInfo(f"archive/data/{i + 1}")
            for key in ("CRC", "compress_size", "file_size", "header_offset", "flag_bits"):
                setattr(copy, key, getattr(first, key))
            file.filelist.append(copy)
            file.NameToInfo[copy.filename] = copy
        file._didModify = True  # type: ignore[attr-defined]
    return "info a.pt"


@attack("zip: two hundred thousand entries", code=0)
def _many(folder: Path) -> str:
    entries = saved({"a.weight": torch.zeros(40, 40)}, folder / "a.pt")
    archive(folder / "a.pt", entries | {f"x/{i}": b"" for i in range(200_000)})
    return "info a.pt"


@attack("zip: entries outside of the archive", code=0)
def _slip(folder: Path) -> str:
    entries = saved({"a.weight": torch.zeros(40, 40)}, folder / "a.pt")
    archive(folder / "a.pt", entries | {f"../../{CANARY}": b"x", f"/{CANARY}": b"x"})
    return "info a.pt"


@attack("zip: encrypted")
def _encrypted(folder: Path) -> str:
    archive(folder / "a.pt", saved({"a.weight": torch.zeros(40, 40)}, folder / "a.pt"))
    data = bytearray((folder / "a.pt").read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = data.find(mark)
        while start >= 0:
            data[start + offset] |= 1
            start = data.find(mark, start + 4)
    (folder / "a.pt").write_bytes(data)
    return "info a.pt"


for _opcode in ("REDUCE", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "EXT1", "eval"):

    @attack(f"TorchScript: {_opcode} in data.pkl")
    def _script(folder: Path, payload: bytes = PAYLOADS[_opcode]) -> str:
        archive(folder / "a.pt", script(folder / "a.pt") | {"data.pkl": payload})
        return "prune a.pt"


@attack("TorchScript: BUILD of a compiled class", code=1)
def _script_build(folder: Path) -> str:
    data = b"\x80\x02c__torch__\nposix.mkdir\n)\x81X\x05\x00\x00\x00ownedb."
    archive(folder / "a.pt", script(folder / "a.pt") | {"data.pkl": data})
    return "prune a.pt"


@attack("TorchScript: code and constants", code=0)
def _script_code(folder: Path) -> str:
    entries = script(folder / "a.pt") | {"constants.pkl": PAYLOADS["REDUCE"]}
    code = (
        b"import os\nos.mkdir('owned')\nclass Sequential(Module):\n  def forward(self): eval('1')\n"
    )
    entries |= {name: code for name in entries if name.endswith(".py")}
    archive(folder / "a.pt", entries)
    return "info a.pt"


@attack("TorchScript: a storage outside of the archive")
def _script_outside(folder: Path) -> str:
    entries = script(folder / "a.pt")
    data = entries["data.pkl"].replace(b"X\x01\x00\x00\x000", b"X\x0b\x00\x00\x00../../etc/x")
    archive(folder / "a.pt", entries | {"data.pkl": data})
    return "prune a.pt --keep rank:k=2 --min-side 0"


def _table(folder: Path, **change: object) -> str:
    entries = program(folder / "a.pt2")
    name = next(name for name in entries if name.endswith("model_weights_config.json"))
    table = json.loads(entries[name])
    item = table["config"]["0.weight"]
    for key, value in change.items():
        (item if key in item else item["tensor_meta"])[key] = value
    archive(folder / "a.pt2", entries | {name: json.dumps(table).encode()})
    return "prune a.pt2 --keep rank:k=2 --include 0.weight"


@attack("torch.export: a pickled weight")
def _pickled(folder: Path) -> str:
    return _table(folder, use_pickle=True)


@attack("torch.export: a weight outside of the archive")
def _program_outside(folder: Path) -> str:
    return _table(folder, path_name="../../../../../../etc/hostname")


@attack("torch.export: a weight of 2^62 entries")
def _huge(folder: Path) -> str:
    return _table(folder, sizes=[{"as_int": 2**31}] * 2, strides=[{"as_int": 0}] * 2)


@attack("torch.export: a weight of 2^200 entries")
def _beyond(folder: Path) -> str:
    return _table(folder, sizes=[{"as_int": 2**100}] * 2)


@attack("torch.export: a weight before its storage")
def _negative(folder: Path) -> str:
    return _table(folder, storage_offset={"as_int": -8})


@attack("torch.export: a table a hundred thousand deep")
def _deep(folder: Path) -> str:
    entries = program(folder / "a.pt2")
    name = next(name for name in entries if name.endswith("model_weights_config.json"))
    archive(folder / "a.pt2", entries | {name: b'{"config":' + b"[" * 100_000})
    return "info a.pt2"


@attack("torch.export: pickles and a graph beside the weights", code=0)
def _graph(folder: Path) -> str:
    entries = program(folder / "a.pt2")
    for name in entries:
        if "weights" not in name and name.endswith((".json", ".pt")):
            entries[name] = PAYLOADS["REDUCE"]
    archive(folder / "a.pt2", entries)
    return "info a.pt2"
