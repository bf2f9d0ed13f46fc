from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmtcli.checkpoint import RawTensor, decode, encode
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.checkpoint.torch.file import _TORCH, to_torch


@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
def test_every_bit_pattern_round_trips(dtype: str, data: st.DataObject) -> None:
    width = torch.empty(0, dtype=_TORCH[dtype]).element_size()
    bits = data.draw(st.binary(min_size=width * 6, max_size=width * 6))
    raw = RawTensor(dtype, (2, 3), np.frombuffer(bits, np.uint8))
    values = decode(raw)
    assert values.shape == (2, 3)
    if np.isfinite(values).all():
        assert encode(values, dtype).data.tobytes() == bits
    # NumPy's values equal torch's.
    np.testing.assert_array_equal(values, to_torch(raw).to(torch.float64).numpy())


@pytest.mark.parametrize("dtype", FLOATS)
@given(st.lists(st.floats(-6e4, 6e4), min_size=1, max_size=9))
def test_rounding_agrees_with_torch(dtype: str, values: list[float] | np.ndarray) -> None:
    values = np.array(values, np.float32 if dtype == "BF16" else np.float64)
    assert torch.equal(to_torch(encode(values, dtype)), torch.from_numpy(values).to(_TORCH[dtype]))


@pytest.mark.parametrize(
    ("dtype", "value", "word"),
    [("F16", 7e4, "float16"), ("BF16", 3.4e38, "bfloat16"), ("F32", 1e39, "float32")],
)
def test_values_out_of_range_are_refused(dtype: str, value: float, word: str) -> None:
    with pytest.raises(OverflowError, match=word):
        encode(np.array([1.0, value]), dtype)


def test_a_strided_array_is_encoded_in_c_order() -> None:
    w = np.arange(6.0).reshape(2, 3).T
    assert encode(w, "F32").data.tobytes() == np.ascontiguousarray(w, np.float32).tobytes()
