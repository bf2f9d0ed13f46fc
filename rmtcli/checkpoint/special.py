"""Values that are not finite, told by their bits in any type, without converting a tensor."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rmtcli.checkpoint.dtypes import TYPES, RawTensor

#: The bits of the exponent, which are all set in infinite values and NaN. Complex numbers are
#: pairs of real ones.
_EXPONENTS = {
    **dict.fromkeys(("F64", "C128"), 0x7FF0_0000_0000_0000),
    **dict.fromkeys(("F32", "C64"), 0x7F80_0000),
    **dict.fromkeys(("F16", "C32"), 0x7C00),
    "BF16": 0x7F80,
    "F8_E5M2": 0x7C,
}
#: The bytes that are NaN in types without infinite values (OCP MX specification 1.0; FNUZ:
#: arXiv 2206.02915).
_NANS = {
    "F8_E4M3": (0x7F, 0xFF),
    "F8_E8M0": (0xFF,),
    "F8_E4M3FNUZ": (0x80,),
    "F8_E5M2FNUZ": (0x80,),
}
#: Values that are looked at together, few enough for a processor's cache.
_BLOCK = 2**15


class Special(NamedTuple):
    """Which kinds of values that are not finite a tensor holds."""

    nan: bool = False
    infinite: bool = False
    minus_infinite: bool = False


def special_values(raw: RawTensor) -> Special:
    """Which kinds of values that are not finite a tensor holds; types without any hold none."""
    if raw.dtype in _NANS:
        return Special(nan=any(bool((raw.data == byte).any()) for byte in _NANS[raw.dtype]))
    if raw.dtype not in _EXPONENTS:
        return Special()
    width = TYPES[raw.dtype].width // (2 if raw.dtype.startswith("C") else 1)
    kind = np.dtype(f"<u{width}")
    exponent, sign = kind.type(_EXPONENTS[raw.dtype]), kind.type(1 << (8 * width - 1))
    bits, result = raw.data.view(kind), Special()
    for start in range(0, bits.size, _BLOCK):
        block = bits[start : start + _BLOCK]
        full = (block & exponent) == exponent
        if full.any():
            hits = block[full]
            kinds = (hits & ~sign) != exponent, hits == exponent, hits == exponent | sign
            result = Special(*(bool(a or b.any()) for a, b in zip(result, kinds, strict=True)))
    return result
