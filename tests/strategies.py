"""Hypothesis strategies for ordinary and unusual state dicts."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from tests.conftest import planted

#: Types that are analysed, and types that are only copied.
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
OTHERS = (
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    *(torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2),
)
#: Sides of matrices: zero, one, small, and larger than most blocks.
SIDES = st.sampled_from((0, 1, 2, 3, 8, 33, 64, 100, 257))
#: Contents of a matrix.
KINDS = (
    *("noise", "planted", "constant", "zero", "one entry", "rank one", "identity"),
    *("denormal", "huge", "tiny", "NaN", "infinite", "two scales"),
)
_NAMES = (
    *("fc.weight", "fc.bias", "a.0.weight", "a.1.weight", "a.weight", "weight", "bias"),
    *("emb.weight", "head.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0", "x", "conv.weight"),
    *("experts.0.w1.weight", "m.experts.w", "gate.weight", "ünï.weight", "a b\n.weight", "."),
)


def filled(kind: str, shape: tuple[int, int], seed: int) -> np.ndarray:
    """A matrix of one of the kinds."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal(shape)
    if not w.size:
        return w
    extremes = {"denormal": 1e-310, "huge": 1e300, "tiny": 1e-30}
    if kind in extremes:
        return w * extremes[kind]
    if kind == "planted" and min(shape) > 2:
        return planted(shape, 2, times=6, seed=seed)
    if kind in ("NaN", "infinite"):
        w[tuple(rng.integers(shape))] = np.nan if kind == "NaN" else -np.inf
    if kind == "two scales":
        w[: shape[0] // 2] *= 1e6
    made = {
        "constant": np.full(shape, 0.25),
        "zero": np.zeros(shape),
        "identity": np.eye(*shape),
        "rank one": np.outer(w[:, 0], w[0]),
        "one entry": np.eye(1, w.size).reshape(shape),
    }
    return made.get(kind, w)


@st.composite
def matrices(draw: st.DrawFn) -> torch.Tensor:
    """A floating matrix: contiguous, transposed, a slice, every other row, or one row repeated."""
    shape = draw(SIDES), draw(SIDES)
    values = filled(draw(st.sampled_from(KINDS)), shape, draw(st.integers(0, 9)))
    with np.errstate(over="ignore"):
        w = torch.tensor(values).to(draw(st.sampled_from(FLOATS)))
    how = draw(st.sampled_from(("whole", "transposed", "slice", "steps", "rows")))
    if how == "transposed":
        return w.T
    if how == "slice":
        return torch.cat([w, w], 1)[:, : shape[1]]
    if how == "steps":
        return torch.cat([w, w])[::2]
    if how == "rows" and shape[0]:
        return w[:1].expand(shape)
    return w


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any tensor: every type, up to five dimensions, on the meta device, sparse."""
    kind = draw(st.sampled_from(("matrix",) * 5 + ("other", "deep", "vector", "meta", "sparse")))
    if kind == "matrix":
        return draw(matrices())
    if kind == "meta":
        return torch.empty(draw(SIDES), 2**40, device="meta")
    if kind == "sparse":
        return torch.eye(4).to_sparse()
    if kind == "other":
        return torch.ones(draw(SIDES), 3).to(draw(st.sampled_from(OTHERS)))
    dims = draw(st.integers(3, 5)) if kind == "deep" else draw(st.integers(0, 1))
    shape = [draw(st.sampled_from((0, 1, 2, 3, 8))) for _ in range(dims)]
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@st.composite
def state_dicts(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Named tensors, some of which are aliases or views of another."""
    names = draw(st.lists(st.sampled_from(_NAMES), min_size=1, max_size=6, unique=True))
    state: dict[str, torch.Tensor] = {}
    for name in names:
        earlier = list(state.values())
        if earlier and draw(st.integers(0, 4)) == 0:
            other = draw(st.sampled_from(earlier))
            sliced = other.layout == torch.strided and other.ndim and draw(st.booleans())
            state[name] = other[1:] if sliced else other
        else:
            state[name] = draw(tensors())
    return state
