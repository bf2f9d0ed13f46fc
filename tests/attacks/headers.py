"""Safetensors files with false headers, and names and manifests that attack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from tests.attacks import attack


def write(path: Path, header: bytes | dict[str, Any], data: bytes = b"", length: int = -1) -> None:
    """Write a file with this header, which may be false."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length < 0 else length
    path.write_bytes(size.to_bytes(8, "little") + text + data)


def tensor(start: int, end: int, shape: list[Any], dtype: str = "F32") -> dict[str, Any]:
    """An entry of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


_GOOD = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
#: Claim of the header -> header, data and, if it is false, the length of the header.
LIES: dict[str, tuple[Any, ...]] = {
    "a length beyond the file": (_GOOD, bytes(8), len(_GOOD) + 9),
    "a length of 2^63": (_GOOD, bytes(8), 2**63),
    "a length of 2^64 - 1": (_GOOD, bytes(8), 2**64 - 1),
    "no length": (_GOOD, bytes(8), 0),
    "offsets beyond the file": ({"a": tensor(0, 2**40, [2**38])}, bytes(8)),
    "offsets of 2^63": ({"a": tensor(0, 2**63, [2**61])}, bytes(8)),
    "an end before its start": ({"a": tensor(8, 0, [2])}, bytes(8)),
    "negative offsets": ({"a": tensor(-8, 0, [2])}, bytes(8)),
    "broken offsets": ({"a": tensor(0, 8, [2]) | {"data_offsets": [0, 8.5]}}, bytes(8)),
    "three offsets": ({"a": tensor(0, 8, [2]) | {"data_offsets": [0, 8, 9]}}, bytes(8)),
    "an overlap": ({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, bytes(12)),
    "two tensors in one range": ({"a": tensor(0, 8, [2]), "b": tensor(0, 8, [2])}, bytes(8)),
    "a gap": ({"a": tensor(0, 8, [2]), "b": tensor(16, 24, [2])}, bytes(24)),
    "bytes that belong to nothing": ({"a": tensor(0, 8, [2])}, bytes(4096)),
    "a shape of 2^63": ({"a": tensor(0, 8, [2**63])}, bytes(8)),
    "a shape whose product is 2^64": ({"a": tensor(0, 0, [2**32, 2**32])}, b""),
    "a shape whose product overflows": ({"a": tensor(0, 8, [2**40, 2**40, 2])}, bytes(8)),
    "a negative shape": ({"a": tensor(0, 8, [-2, -1])}, bytes(8)),
    "a shape of text": ({"a": tensor(0, 8, ["2"])}, bytes(8)),
    "an unknown type": ({"a": tensor(0, 8, [2], "F33")}, bytes(8)),
    "a name twice, with different offsets": (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}',
        bytes(16),
    ),
    "a type twice": (
        b'{"a":{"dtype":"F32","dtype":"F64","shape":[2],"data_offsets":[0,8]}}',
        bytes(8),
    ),
    "JSON a hundred thousand deep": (b'{"a":' + b"[" * 100_000, b""),
    "JSON a hundred thousand deep, closed": (b"[" * 100_000 + b"]" * 100_000, b""),
    "bytes that are not UTF-8": (_GOOD.replace(b'"a"', b'"\xff\xfe"'), bytes(8)),
    "a lone surrogate": (_GOOD.replace(b'"a"', b'"\\ud800"'), bytes(8)),
    "not an object": (b"[1]", b""),
    "NaN": (_GOOD.replace(b"[2]", b"[NaN]"), bytes(8)),
    "a number of five thousand digits": (
        _GOOD.replace(b"[2]", b"[" + b"9" * 5000 + b"]"),
        bytes(8),
    ),
    "metadata that is not text": (b'{"__metadata__":{"a":[1]},' + _GOOD[1:], bytes(8)),
    "a name of a million characters": (_GOOD.replace(b'"a"', b'"' + b"a" * 10**6 + b'"'), bytes(8)),
    "a name in which searches take long": (
        b'{"'
        + b"_embe" * 100_000
        + b'.weight":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}',
        bytes(8),
    ),
}

for _claim, _parts in LIES.items():

    @attack(f"safetensors: {_claim}")
    def _lie(folder: Path, parts: tuple[Any, ...] = _parts) -> str:
        write(folder / "a.safetensors", *parts)
        return "analyze a.safetensors --min-side 0"


@attack("safetensors: an empty shape of 2^40 rows", code=0)
def _empty(folder: Path) -> str:
    header = {
        "a.weight": tensor(0, 0, [2**40, 0]),
        "experts.b.weight": tensor(0, 0, [2**40, 0, 5]),
        "w.weight_hh": tensor(0, 0, [2**40, 0]),
        "b.weight": tensor(0, 6400, [40, 40]),
    }
    write(
        folder / "a.safetensors",
        header,
        np.random.default_rng(0).standard_normal(1600, "f4").tobytes(),
    )
    return "analyze a.safetensors --min-side 0 --recurrent --conv"


@attack("safetensors: a header of 20 MB with a quarter of a million tensors", code=0)
def _many(folder: Path) -> str:
    write(
        folder / "a.safetensors",
        {f"layers.{i}.weight": tensor(0, 0, [0, 1]) for i in range(250_000)},
    )
    return "info a.safetensors"


_NAMES = {
    "markup and control characters": "\x1b[2J\x1b]0;x\x07\n\r<script>{{7*7}}\u202e.weight",
    "a path": "../../../../etc/passwd\x00.weight",
}
for _kind, _name in _NAMES.items():

    @attack(f"safetensors: a name that is {_kind}", code=0)
    def _named(folder: Path, name: str = _name) -> str:
        torch.manual_seed(0)
        save_file(
            {name: torch.randn(64, 48), "b.weight": torch.randn(48, 64)}, folder / "a.safetensors"
        )
        return (
            "prune a.safetensors --keep rank:k=2 --report r.md --plan p.json --verbose "
            "--plot figures --min-side 0"
        )


def _recorded(folder: Path, record: object, names: tuple[str, ...], command: str) -> str:
    """Write a file with a manifest that rmtcli did not write."""
    torch.manual_seed(0)
    shapes = {"0.weight": (2, 40), "1.weight": (40, 2), "weight": (40, 40), "bias": (40,)}
    state = {name: torch.randn(shapes[name.partition(".")[2]]) for name in names}
    notes = {"rmtcli": record if isinstance(record, str) else json.dumps(record)}
    save_file(state, folder / "a.safetensors", metadata=notes)
    return command


def _record(**change: object) -> dict[str, object]:
    return {
        "rmtcli": "0",
        "source": "a",
        "source_sha256": "",
        "keep": "auto",
        "edge": "select",
        "factored": {"a": 2},
    } | change


_BOTH = ("a.0.weight", "a.1.weight")
_RECORDS: dict[str, tuple[object, tuple[str, ...], str, int]] = {
    "names factors that do not exist": (
        _record(factored={"b": 2}),
        _BOTH,
        "densify a.safetensors -o b.safetensors",
        1,
    ),
    "names factors whose product's name is taken": (
        _record(),
        (*_BOTH, "a.weight"),
        "densify a.safetensors -o b.safetensors",
        1,
    ),
    "shares a factor with itself": (
        _record(shared={"a": "a"}),
        _BOTH,
        "densify a.safetensors -o b.safetensors",
        0,
    ),
    "shares factors in a circle": (
        _record(factored={"a": 2, "b": 2}, shared={"a": "b", "b": "a"}),
        ("a.1.weight", "b.1.weight"),
        "densify a.safetensors -o b.safetensors",
        1,
    ),
    "is a hundred thousand deep": (
        "[" * 100_000,  # unreadable, so the factors are recognised by their names
        _BOTH,
        "densify a.safetensors -o b.safetensors",
        0,
    ),
    "holds control characters": (
        _record(source="\x1b[2J\n", made_by="\x1b]0;x\x07", ranks={"\x1b[2J": 3}),
        _BOTH,
        "info a.safetensors",
        0,
    ),
    "holds a rank of 2^200": (_record(factored={"a": 2**200}), _BOTH, "info a.safetensors", 0),
}
for _kind, (_text, _tensors, _command, _code) in _RECORDS.items():

    @attack(f"manifest: {_kind}", code=_code)
    def _manifest(
        folder: Path,
        parts: tuple[object, tuple[str, ...], str] = (_text, _tensors, _command),
    ) -> str:
        return _recorded(folder, *parts)


@attack("names: factors' names are taken")
def _taken(folder: Path) -> str:
    """The layer is skipped, so nothing is written."""
    torch.manual_seed(0)
    state = {"fc1.weight": torch.randn(40, 40), "fc1.0.weight": torch.randn(3)}
    save_file(state, folder / "a.safetensors")
    return "prune a.safetensors --keep rank:k=2 --min-side 0 --include fc1.weight"


@attack("names: factors' names are taken, under a budget", code=2)
def _taken_jointly(folder: Path) -> str:
    """No layer can become smaller, so the budget cannot be met."""
    _taken_state = {"fc1.weight": torch.randn(40, 40), "fc1.1.bias": torch.randn(3)}
    save_file(_taken_state, folder / "a.safetensors")
    return "prune a.safetensors --budget 50% --min-side 0 --include fc1.weight"
