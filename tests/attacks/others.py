"""Files beside a checkpoint: data, statistics, plans, defaults, logs."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from tests.attacks import CANARY, attack
from tests.attacks.archives import bomb
from tests.attacks.headers import tensor, write

_EVALUATE = "evaluate a.safetensors --data d.npz"


def _network(folder: Path) -> None:
    torch.manual_seed(0)
    state = {"a.weight": torch.randn(40, 30), "b.weight": torch.randn(10, 40)}
    save_file(state, folder / "a.safetensors")


class Payload:
    """Creates a folder if it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, (CANARY,)


@attack("data: an array of objects", named="d.npz")
def _objects(folder: Path) -> str:
    _network(folder)
    np.savez(folder / "d.npz", inputs=np.array([Payload()], object), targets=np.arange(1))
    return _EVALUATE


@attack("data: a pickle instead of an archive", named="d.npz")
def _pickle(folder: Path) -> str:
    import pickle

    _network(folder)
    (folder / "d.npz").write_bytes(pickle.dumps(Payload()))
    return _EVALUATE


def _array(folder: Path, header: str, data: bytes = b"") -> str:
    _network(folder)
    text = header.encode().ljust(118) + b"\n"
    magic = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little")
    with zipfile.ZipFile(folder / "d.npz", "w") as file:
        file.writestr("inputs.npy", magic + text + data)
    return _EVALUATE


for _header in (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 30)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808, 30)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 30)}",
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
    "{'descr': '|V0', 'fortran_order': False, 'shape': (10, 30)}",
    "{'descr': __import__('os').mkdir('owned'), 'fortran_order': False, 'shape': ()}",
    "(" * 100,
):

    @attack(f"data: a header {_header[:64]!r}", named="d.npz")
    def _headed(folder: Path, header: str = _header) -> str:
        return _array(folder, header)


@attack("data: 2 GB of zeros in two megabytes", named="d.npz")
def _bomb(folder: Path) -> str:
    _network(folder)
    shape = "{'descr': '<f4', 'fortran_order': False, 'shape': (16777216, 30)}"
    text = shape.encode().ljust(118) + b"\n"
    header = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    with zipfile.ZipFile(folder / "d.npz", "w") as file:
        bomb(file, "inputs.npy", bytes(2**20), 1920, first=header)
    return _EVALUATE


@attack("data: labels that are not classes", named="d.npz")
def _labels(folder: Path) -> str:
    _network(folder)
    arrays = {"inputs": np.ones((4, 30), np.float32), "targets": np.array([0, 1, 2, 2**62])}
    np.savez(folder / "d.npz", **arrays)  # type: ignore[arg-type]
    return _EVALUATE


@attack("data: text a hundred thousand brackets deep", named="m")
def _deep_text(folder: Path) -> str:
    from tests.attacks.directories import _remote

    _remote(folder, "config.json", {})
    (folder / "t.jsonl").write_text('{"text": ' + "[" * 100_000)
    return "evaluate m --data t.jsonl --task sentence-embedding --against m"


def _statistics(folder: Path, record: str) -> str:
    _network(folder)
    save_file(
        {"m": torch.zeros(2)}, folder / "s.safetensors", metadata={"rmtcli_statistics": record}
    )
    return "prune a.safetensors --stats s.safetensors --keep rank:k=2"


for _record in (
    "[" * 100_000,
    "[]",
    '{"version": 1, "layers": {"a.weight": {"rows": "x"}}}',
    "9" * 5000,
):

    @attack(f"statistics: a record {_record[:50]!r}", named="s.safetensors")
    def _recorded(folder: Path, record: str = _record) -> str:
        return _statistics(folder, record)


@attack("statistics: a header of 2^63", named="s.safetensors")
def _statistics_header(folder: Path) -> str:
    _network(folder)
    write(folder / "s.safetensors", {"m": tensor(0, 8, [2**63])}, bytes(8))
    return "prune a.safetensors --stats s.safetensors --keep rank:k=2"


def _plan(folder: Path, layer: dict[str, object], **change: object) -> str:
    """Write a plan for the network, with a change that does not fit it."""
    _network(folder)
    state = {"a.weight": (40, 30), "b.weight": (10, 40)}
    from safetensors.torch import load_file

    data = load_file(folder / "a.safetensors")
    layers: list[dict[str, object]] = [
        {
            "name": name,
            "shape": list(shape),
            "sha256": hashlib.sha256(data[name].numpy().tobytes()).hexdigest(),
            "spikes": 0,
            "rank": None,
            "group": None,
        }
        for name, shape in state.items()
    ]
    layers[0] |= {"rank": 2} | layer
    plan = {"rmtcli_plan": 1, "source": "a", "made_by": "b", "calibration": None, "layers": layers}
    (folder / "p.json").write_text(json.dumps(plan | change))
    return "prune a.safetensors --apply p.json"


_LAYERS: dict[str, tuple[dict[str, object], int]] = {
    "a rank of 2^63": ({"rank": 2**63}, 1),
    "a negative rank": ({"rank": -1}, 1),
    "a rank of true": ({"rank": True}, 2),
    "a shape of 2^63": ({"shape": [2**63, 2**63]}, 1),
    "a layer that does not exist": ({"name": "../../etc/passwd"}, 1),
    "a layer named over two lines": ({"name": "a\nb\x1b[2J"}, 1),
    "the hash of another layer": ({"sha256": "0" * 64}, 1),
}
for _kind, (_layer, _code) in _LAYERS.items():

    @attack(f"plan: {_kind}", code=_code, named="p.json" if _code == 2 else "a.safetensors")
    def _planned(folder: Path, layer: dict[str, object] = _layer) -> str:
        return _plan(folder, layer)


@attack("plan: a hundred thousand deep", code=2, named="p.json")
def _deep_plan(folder: Path) -> str:
    _network(folder)
    (folder / "p.json").write_text("[" * 100_000)
    return "prune a.safetensors --apply p.json"


def _calibrated(folder: Path, **change: object) -> str:
    inputs = np.random.default_rng(0).standard_normal((50, 30), np.float32)
    np.savez(folder / "known.npz", inputs=inputs)
    calibration = {
        "data": "known.npz",
        "stats": None,
        "sha256": hashlib.sha256((folder / "known.npz").read_bytes()).hexdigest(),
        "metric": "one-sided",
        "batch": 10,
        "sequential": False,
        "heal": 0,
    }
    return _plan(folder, {}, calibration=calibration | change)


@attack("plan: a path of statistics outside of the folder", code=0)
def _elsewhere(folder: Path) -> str:
    """The plan names data, so its path of statistics is not used."""
    (folder / "secret").mkdir()
    return _calibrated(folder, stats=str(folder / "secret/owned.safetensors"))


_CALIBRATIONS = {"batch": -1, "metric": "__import__('os')", "heal": -5, "data": "/etc/passwd"}
for _key, _value in _CALIBRATIONS.items():

    @attack(
        f"plan: calibration with {_key} {_value!r}",
        code=2,
        named=_value if _key == "data" else "p.json",
    )  # type: ignore[arg-type]
    def _calibration(folder: Path, key: str = _key, value: object = _value) -> str:
        return _calibrated(folder, **{key: value})


_DEFAULTS = {
    "a hundred thousand deep": "a = " + "[" * 100_000,
    "a number of five thousand digits": "[prune]\nheal = " + "9" * 5000,
    "bytes that are not UTF-8": "[prune]\nkeep = '\udcff'",
    "an unknown command": '[__import__]\nx = "os"',
    "an unknown option": '[info]\n"--help" = true\n__class__ = 1',
}
for _kind, _text in _DEFAULTS.items():

    @attack(f"rmtcli.toml: {_kind}", code=2, named="rmtcli.toml")
    def _toml(folder: Path, text: str = _text) -> str:
        _network(folder)
        (folder / "rmtcli.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
        return "info a.safetensors"


@attack("rmtcli.toml: beside the checkpoint, not in the working directory", code=0)
def _beside(folder: Path) -> str:
    (folder / "stranger").mkdir()
    _network(folder / "stranger")
    (folder / "stranger/rmtcli.toml").write_text(
        '[prune]\nmodel = "evil:make"\noutput = "../x.pt"\n'
    )
    (folder / "stranger/evil.py").write_text(f"import os\nos.mkdir({CANARY!r})\n")
    return "prune stranger/a.safetensors --keep rank:k=2 --min-side 0"


@attack("training log: a hundred thousand deep", code=2, named="l.json")
def _log(folder: Path) -> str:
    (folder / "l.json").write_text("[" * 100_000)
    return "plot-training l.json -o f.svg"


@attack("training log: more cells than columns", code=2, named="l.csv")
def _csv(folder: Path) -> str:
    (folder / "l.csv").write_text("time,parameters,layer,rank\n1,2,a,3,4,5\n")
    return "plot-training l.csv -o f.svg"
