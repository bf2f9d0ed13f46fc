"""Ordinary torch files, read without torch and compared with torch's own reader."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rmtcli
from rmtcli.checkpoint import open_checkpoint
from rmtcli.checkpoint.torch.file import TorchFile
from rmtcli.checkpoint.torch.plain import PlainTorchFile, UnusualError
from rmtcli.errors import CheckpointError
from tests.conftest import SAMPLES


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30), nn.Linear(30, 40, bias=False))
    model[2].weight = model[0].weight  # type: ignore[union-attr, assignment]
    return model


def optimizer_state() -> dict[str, Any]:
    model = network()
    return torch.optim.Adam(model.parameters()).state_dict()


def types() -> dict[str, torch.Tensor]:
    names = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "bool")
    return {n: (10 * torch.randn(3, 4)).to(getattr(torch, n)) for n in (*names, "uint8")}


ORDINARY = {
    "bare": lambda: network().state_dict(),
    "types": types,
    "parameters": lambda: dict(network().named_parameters()),
    "in a training program's file": lambda: {
        "epoch": 3,
        "state_dict": network().state_dict(),
        "optimizer": optimizer_state(),
        "notes": ["a", (1, 2.5, None, True)],
    },
    "deeper": lambda: {"model": OrderedDict(net=network().state_dict())},
    "scalars": lambda: {"a": torch.tensor(1.5), "b.weight": torch.ones(2, 3)},
    "complex": lambda: {"a": torch.ones(2, dtype=torch.complex64)},
    "sides of one": lambda: {"a": torch.ones(1, 3, 1), "b": torch.ones(3, 1).T},
}
UNUSUAL = {
    "part of a storage": lambda: {"a": torch.randn(8, 8)[:4]},
    "two parts": lambda: dict(zip("ab", torch.randn(2, 8, 8), strict=True)),
    "transposed": lambda: {"a": torch.randn(4, 5).T},
    "expanded": lambda: {"a": torch.randn(1, 5).expand(4, 5)},
    "empty": lambda: {"a": torch.empty(0, 3), "b": torch.ones(2)},
    "conjugate": lambda: {"a": torch.ones(2, dtype=torch.complex64).conj()},
    "float8": lambda: {"a": torch.ones(2).to(torch.float8_e4m3fn)},
    "not a tensor": lambda: {"a": torch.ones(2), "b": 3},
    "number as a name": lambda: {0: torch.ones(2)},
    "NumPy's numbers": lambda: {"loss": np.float64(1.0), "model": {"a": torch.ones(2)}},
    "no state dict": lambda: {"a": 3},
    "sparse": lambda: {"a": torch.eye(3).to_sparse()},
}
#: Objects that torch's reader refuses, or in which rmtcli finds no state dict.
REFUSED = ("no state dict", "NumPy's numbers", "sparse")


@pytest.mark.parametrize("kind", ORDINARY)
def test_reads_what_torch_reads(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(ORDINARY[kind](), path)
    plain, whole = PlainTorchFile(path), TorchFile(path)
    assert list(plain.infos.items()) == list(whole.infos.items())
    for fact in ("extras", "opaque", "metadata", "aliases", "manifest", "as_stored", "form"):
        assert getattr(plain, fact) == getattr(whole, fact), fact
    assert plain.ties(plain.infos) == whole.ties(whole.infos)
    for name in whole.infos:
        assert plain.raw(name).data.tobytes() == whole.raw(name).data.tobytes()
        assert plain.nbytes(name) == whole.nbytes(name)


@pytest.mark.parametrize("kind", UNUSUAL)
def test_leaves_unusual_files_to_torch(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(UNUSUAL[kind](), path)
    with pytest.raises(UnusualError):
        PlainTorchFile(path)
    if kind in REFUSED:
        with pytest.raises(CheckpointError):
            open_checkpoint(path)
    else:
        assert isinstance(open_checkpoint(path), TorchFile)


def test_leaves_older_files_and_other_bytes_to_torch(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(network().state_dict(), path, _use_new_zipfile_serialization=False)
    assert isinstance(open_checkpoint(path), TorchFile)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(UnusualError):
        PlainTorchFile(path)


def test_the_manifest_is_read_without_torch(tmp_path: Path) -> None:
    small = tmp_path / "small.pt"
    rmtcli.prune(SAMPLES / "mnist_deep.pt", small)
    plain, whole = PlainTorchFile(small), TorchFile(small)
    assert plain.manifest is not None
    assert plain.manifest == whole.manifest
    assert plain.extras == whole.extras == ("epoch", "optimizer_state_dict")


def test_torch_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys, rmtcli\n"
        f"rmtcli.analyze({str(SAMPLES / 'mnist_deep.pt')!r})\n"
        f"rmtcli.prune({str(SAMPLES / 'mnist_deep.pt')!r}, {str(tmp_path / 'a.safetensors')!r})\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
