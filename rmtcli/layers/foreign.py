"""Tensors of other tools that hold a layer in a form that is not its weight.

They are told by their names and the tensors beside them: the parts of adapters, weights packed in
few bits, parts of weights that torch computes, and what is left in a file whose weights a
distributed trainer keeps elsewhere.
"""

from __future__ import annotations

import re

from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.checkpoint.names import member, module_of
from rmtcli.layers.layer import SkipReason

#: Parts of LoRA (peft, kohya, diffusers), LoHa, LoKr, VeRA and OFT.
_ADAPTER = re.compile(
    r"(^|[._])(lora_(A|B|E|mid|down|up|embedding_A|embedding_B|magnitude_vector)|lora\.(down|up)"
    r"|lora_linear_layer|hada_[wt]\d\w*|lokr_[wt]\d\w*|vera_(A|B)|oft_(R|r|blocks|diag))([._]|$)"
)
#: What FSDP calls all weights of a module in one row.
_FLAT = re.compile(r"(^|[._])flat_param(_\d+)?$")
#: Last parts of the names of packed weights: GPTQ and AWQ, compressed-tensors, HQQ, quanto, and
#: torch's own quantisation.
_PACKED = frozenset({"qweight", "weight_packed", "W_q", "_packed_params"})
#: Names beside a weight that say that it is packed: those of bitsandbytes and quanto.
_BESIDE = ("SCB", "weight.SCB", "weight.absmax", "weight.quant_map")
#: Scales of weights in 8 bits: compressed-tensors, torchao, and fp8 of DeepSeek.
_SCALES = ("weight_scale", "weight_scale_inv")
#: Names beside packed weights that belong to them.
_TABLES = frozenset({"qzeros", "scales"})


#: A weight that torch computes, as its parts are named: by torch.nn.utils.parametrize, and by the
#: older functions, which need the part beside it to be told from other names.
_PARAMETRIZATION = re.compile(r"(^|\.)parametrizations\.\w+\.(original\d*|\d+\..+)$")
_PART = re.compile(r"(?:^|[._])weight(?:_\w+)?_(g|v|u|orig|mask)$")
_BESIDE_PART = {
    "g": ("v",),
    "v": ("g", "orig"),
    "u": ("orig",),
    "orig": ("mask", "u"),
    "mask": ("orig",),
}


def foreign(checkpoint: Checkpoint, name: str) -> SkipReason | None:
    """What another tool's tensor is; None for a tensor that may be a layer.

    Args:
        checkpoint: the network.
        name: one of its tensors, or an entry that is not a plain tensor.
    """
    info, module, last = checkpoint.infos.get(name), module_of(name), name.rpartition(".")[2]
    if info is not None and len(info.shape) >= 2 and _is_reparametrised(checkpoint, name):
        return SkipReason.REPARAMETRISED
    matrix = info is not None and len(info.shape) >= 2
    table = last in _TABLES and member(module, "qweight") in checkpoint.infos
    stored = last == "weight" and any(member(module, x) in checkpoint.infos for x in _BESIDE)
    scaled = last in ("weight", *_SCALES) and _is_scaled(checkpoint, module)
    reasons = (
        (_FLAT.search(name) is not None, SkipReason.FLAT),
        (last == "weight" and info is not None and info.shape == (0,), SkipReason.PARTITIONED),
        (last in _PACKED or (matrix and (table or stored or scaled)), SkipReason.PACKED),
        (matrix and _ADAPTER.search(name) is not None, SkipReason.ADAPTER),
    )
    return next((reason for applies, reason in reasons if applies), None)


def _is_scaled(checkpoint: Checkpoint, module: str) -> bool:
    """Whether a module's weight is stored in 8 bits, with scales beside it."""
    weight = checkpoint.infos.get(member(module, "weight"))
    beside = any(member(module, name) in checkpoint.infos for name in _SCALES)
    return weight is not None and weight.dtype not in FLOATS and beside


def _is_reparametrised(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a tensor is a part from which torch computes a weight."""
    part = _PART.search(name)
    if part is None:
        return _PARAMETRIZATION.search(name) is not None
    stem = name.removesuffix(part[1])
    return any(f"{stem}{other}" in checkpoint.infos for other in _BESIDE_PART[part[1]])
