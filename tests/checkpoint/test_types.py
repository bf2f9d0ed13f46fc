"""Every type of torch and safetensors is counted, carried over bit for bit, or refused by name."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rmtcli
from rmtcli.checkpoint import open_checkpoint, write_checkpoint
from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.errors import CheckpointError
from tests.checkpoint.torch.test_archive import script
from tests.conftest import planted

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")

#: The types that torch has, by their names in safetensors.
TORCH = [name for name, dtype in TYPES.items() if hasattr(torch, dtype.word)]


def tensor(name: str) -> torch.Tensor:
    """A 4 × 6 tensor of random bytes, of truth values for BOOL."""
    dtype = getattr(torch, TYPES[name].word)
    width = torch.empty(0, dtype=dtype).element_size()
    data = np.random.default_rng(0).integers(0, 2 if name == "BOOL" else 256, (4, 6 * width))
    return torch.from_numpy(data.astype(np.uint8)).view(dtype)


def bits(value: torch.Tensor) -> bytes:
    return value.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("name", TORCH)
def test_a_tensor_of_any_type_is_counted_and_carried_over(tmp_path: Path, name: str) -> None:
    value = tensor(name)
    torch.save(
        {"a.weight": torch.ones(3, 2), "t": value, "transposed": value.t()}, tmp_path / "a.pt"
    )
    source = open_checkpoint(tmp_path / "a.pt")
    values = value.numel() * (2 if name == "F4" else 1)
    assert source.opaque == ()
    assert source.infos["t"].size == values
    assert source.parameters == 6 + 2 * values * TYPES[name].trained
    assert source.bytes == 24 + 2 * value.nbytes
    target = tmp_path / "b.safetensors"
    if not TYPES[name].in_safetensors:
        with pytest.raises(CheckpointError, match=f"'t' is of type {TYPES[name].word}, which saf"):
            write_checkpoint(source, target)
        return
    write_checkpoint(source, target)
    write_checkpoint(open_checkpoint(target), tmp_path / "c.pt")
    written = {"b": load_file(target), "c": torch.load(tmp_path / "c.pt")}
    for state in written.values():
        assert state["t"].dtype == value.dtype
        assert (state["t"].shape, bits(state["t"])) == (value.shape, bits(value))
        assert bits(state["transposed"]) == bits(value.t())


@pytest.mark.parametrize("name", ["F6_E2M3", "F6_E3M2", "F4"])
def test_what_torch_cannot_hold_is_refused_by_name(tmp_path: Path, name: str) -> None:
    shape, size = ((4, 2), 6) if name != "F4" else ((2, 1), 1)
    header = {"odd": {"dtype": name, "shape": shape, "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
    source = open_checkpoint(path)
    assert source.bytes == size
    write_checkpoint(source, tmp_path / "b.safetensors")
    assert open_checkpoint(tmp_path / "b.safetensors").infos == source.infos
    with pytest.raises(CheckpointError, match=f"'odd' is of type {TYPES[name].word} and shape"):
        write_checkpoint(source, tmp_path / "b.pt")


def test_a_type_that_safetensors_does_not_know_is_named(tmp_path: Path) -> None:
    text = b'{"a":{"dtype":"U4","shape":[2],"data_offsets":[0,1]}}'
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(1))
    with pytest.raises(CheckpointError, match="has a tensor of type U4, which safetensors"):
        open_checkpoint(path)


class Buffered(nn.Module):
    """A network with a buffer."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.register_buffer("value", value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


@pytest.mark.parametrize("name", ["C32", "C64", "C128", "U16", "F8_E8M0", "F8_E4M3FNUZ"])
def test_compiled_modules_hold_any_type(tmp_path: Path, name: str) -> None:
    value = tensor(name)
    checkpoint = open_checkpoint(script(Buffered(value), tmp_path / "a.pt"))
    assert checkpoint.infos["value"].dtype == name
    assert checkpoint.raw("value").data.tobytes() == bits(value)


@pytest.mark.parametrize("part", ["real", "imag"])
def test_a_view_of_other_values_is_never_read_as_they_are(tmp_path: Path, part: str) -> None:
    view = tensor("C64").conj()
    view = view if part == "real" else view.imag  # the conjugate and the negative of what is stored
    with pytest.raises(CheckpointError, match="a view of other values"):
        open_checkpoint(script(Buffered(view), tmp_path / "a.pt"))
    torch.save({"a.weight": torch.ones(3, 2), "v": view}, tmp_path / "b.pt")
    write_checkpoint(open_checkpoint(tmp_path / "b.pt"), tmp_path / "c.safetensors")
    assert bits(load_file(tmp_path / "c.safetensors")["v"]) == bits(
        view.resolve_conj().resolve_neg()
    )


def test_the_conjugate_of_a_tensor_is_not_tied_to_it(tmp_path: Path) -> None:
    z = tensor("C64")
    torch.save({"z": z, "conj": z.conj(), "same": z.view(z.shape)}, tmp_path / "a.pt")
    assert open_checkpoint(tmp_path / "a.pt").aliases == {"same": "z"}


def test_the_numbers_of_types_in_exported_programs_are_torchs() -> None:
    from torch._export.serde.schema import ScalarType

    numbers = {kind.name: int(kind) for kind in ScalarType}
    stored = {dtype.storage: dtype.exported for dtype in TYPES.values() if dtype.storage}
    ours = {name.removesuffix("Storage").replace("_", "").upper(): x for name, x in stored.items()}
    assert len(ours) == 21
    assert ours == {name: x for name, x in numbers.items() if name != "UNKNOWN"}


def test_sparse_and_quantised_tensors_are_kept_and_named(tmp_path: Path) -> None:
    weight = torch.from_numpy(planted((128, 96), 3, times=4)).float()
    sparse = torch.eye(64).to_sparse()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        others = {
            "coo": sparse,
            "csr": torch.eye(64).to_sparse_csr(),
            "q": torch.quantize_per_tensor(torch.ones(8, 8), 0.1, 0, torch.quint8),
        }
    torch.save(
        {"fc.weight": weight, "head.weight": torch.ones(4, 128), **others}, tmp_path / "a.pt"
    )
    source = open_checkpoint(tmp_path / "a.pt")
    indices = 64 * 2 * 8 + (64 + 65) * 8
    assert source.bytes == 4 * (128 * 96 + 4 * 128) + indices + 2 * 64 * 4 + 64
    info = rmtcli.info(tmp_path / "a.pt")
    report = rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.pt", keep="rank:k=3")
    said = "kept, and not counted as parameters: 'coo' (sparse_coo float32), 'csr' (sparse_csr "
    assert any(note.startswith(said) and "'q' (quint8)" in note for note in report.notes)
    assert [text for label, text in info.lines if label == "note"] == list(source.remarks)
    again = torch.load(tmp_path / "b.pt")
    assert torch.equal(again["coo"].to_dense(), torch.eye(64))
    with pytest.raises(CheckpointError, match="'coo' cannot be stored in safetensors"):
        rmtcli.prune(tmp_path / "a.pt", tmp_path / "b.safetensors", keep="rank:k=3")


def test_a_complex_matrix_is_no_layer(tmp_path: Path) -> None:
    weight = torch.from_numpy(planted((128, 96), 3, times=4)).float()
    save_file({"a.weight": weight, "c.weight": torch.complex(weight, weight)}, tmp_path / "a.st")
    report = rmtcli.analyze(tmp_path / "a.st", selection=rmtcli.Selection(include=("*",)))
    assert [(item.name, "float64, float32" in item.reason.value) for item in report.skipped] == [
        ("c.weight", True)
    ]
    assert rmtcli.info(tmp_path / "a.st").types == {"float32": 1, "complex64": 1}
