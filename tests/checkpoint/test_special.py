"""Values that are not finite, in every type."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rmtcli.checkpoint import RawTensor
from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.checkpoint.special import Special, special_values
from rmtcli.checkpoint.torch.file import to_torch

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")


def raw(name: str, data: np.ndarray) -> RawTensor:
    data = data.view(np.uint8)
    return RawTensor(name, (len(data) // TYPES[name].width,), data)


def expected(tensor: RawTensor) -> Special:
    """By torch, value by value."""
    value = to_torch(tensor)
    value = torch.view_as_real(value.to(torch.complex128)) if value.is_complex() else value.double()
    inf = float("inf")
    return Special(*(bool(x.any()) for x in (value.isnan(), value == inf, value == -inf)))


@pytest.mark.parametrize("name", [n for n, t in TYPES.items() if t.trained and t.width == 1])
def test_every_byte_is_judged_as_torch_does(name: str) -> None:
    for byte in range(256):
        value = raw(name, np.array([byte], np.uint8))
        assert special_values(value) == expected(value), byte


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_every_value_of_16_bits_is_judged_as_torch_does(name: str) -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    finite = to_torch(raw(name, bits)).double().isfinite().numpy()
    assert special_values(raw(name, bits[finite])) == Special()
    for value in bits[~finite]:
        one = raw(name, np.array([value]))
        kinds = special_values(one)
        assert sum(kinds) == 1
        if value & 0x7F in (0, 1):
            assert kinds == expected(one)


@pytest.mark.parametrize("name", ["F64", "F32", "F16", "C128", "C64", "C32"])
@pytest.mark.parametrize("value", [0.0, -1.5, np.nan, np.inf, -np.inf])
def test_one_value_among_many_is_seen(name: str, value: float) -> None:
    kinds = {"F64": "f8", "C128": "f8", "F32": "f4", "C64": "f4", "F16": "f2", "C32": "f2"}
    values = np.full(100_000, 1.0, kinds[name])
    values[70_001] = value
    special = special_values(raw(name, values))
    assert special == (np.isnan(value), value == np.inf, value == -np.inf)


def test_whole_numbers_and_empty_tensors_hold_none() -> None:
    assert special_values(raw("I64", np.full(3, -1))) == Special()
    assert special_values(raw("F32", np.zeros(0))) == Special()
