"""Every registered layout: what it stores is what it says, and can be undone."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rmtcli.checkpoint import Edited, Manifest, open_checkpoint
from rmtcli.cli import prune
from rmtcli.keep import Untouched
from rmtcli.layers import Layer, Selection, find_layers
from rmtcli.layouts import LAYOUTS, Layout, Replacements, join, layout_of
from rmtcli.spectra import Factors

RANK = 5
SHAPES = {
    "a.weight": (60, 40),
    "a.bias": (60,),
    "b.weight": (30, 20, 3, 3),
    "b.bias": (30,),
    "c.weight_hh_l0": (80, 20),
}
SELECTION = Selection(min_side=0, convolutions=True, recurrent=True)

layouts = pytest.mark.parametrize(
    "layout", [LAYOUTS.parse(name) for name in LAYOUTS.choices], ids=LAYOUTS.choices
)


@pytest.fixture
def layers(tmp_path: Path) -> list[Layer]:
    """A matrix, a kernel and four gates, the first two with biases."""
    state = {name: torch.randn(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    save_file(state, tmp_path / "a.safetensors")
    items = find_layers(open_checkpoint(tmp_path / "a.safetensors"), SELECTION)
    return [item for item in items if isinstance(item, Layer)]


def factors(layer: Layer) -> Factors:
    rng = np.random.default_rng(0)
    outputs, inputs = layer.shape
    return Factors(rng.standard_normal((outputs, RANK)), rng.standard_normal((RANK, inputs)))


@layouts
def test_stores_as_many_values_as_it_says(layout: Layout, layers: list[Layer]) -> None:
    supported = [layer for layer in layers if layout.supports(layer)]
    assert [layer.module for layer in supported[:2]] == ["a", "b"]
    for layer in supported:
        parts = layout.compress(layer, factors(layer), SHAPES[layer.tensor])
        assert tuple(parts) == layout.names(layer.tensor)
        sizes = [part.size for part in parts.values() if part.dtype.kind == "f"]
        assert layout.values(*layer.shape, RANK) == sum(sizes)
        others = sum(part.nbytes for part in parts.values() if part.dtype.kind == "i")
        assert layout.index_bytes * layer.shape[0] == others
        assert 0 < layout.macs(*layer.shape, RANK) <= layer.size


@layouts
def test_siblings_store_as_many_values_as_it_says(layout: Layout, layers: list[Layer]) -> None:
    siblings = [replace(layers[0], shape=(outputs, 40)) for outputs in (60, 3, 30)]
    rng = np.random.default_rng(0)
    right = rng.standard_normal((20, 40))
    shared = [Factors(rng.standard_normal((layer.shape[0], 20)), right) for layer in siblings]
    made = layout.compress_siblings(siblings, shared, [layer.shape for layer in siblings])
    count, own = 0, layout.shared_parts
    for i, parts in enumerate(made):
        new = [*parts.values()][own if i else 0 :]
        count += sum(part.size for part in new if part.dtype.kind == "f")
        for first, part in zip([*made[0].values()][:own], parts.values(), strict=False):
            assert np.array_equal(first, part)
    sizes = [layout.values(*layer.shape, 20, shares=i > 0) for i, layer in enumerate(siblings)]
    assert sum(sizes) == count
    if layout.shared_parts:
        assert count == layout.values(93, 40, 20)


@layouts
def test_is_worth_storing_up_to_its_largest_rank(layout: Layout, layers: list[Layer]) -> None:
    for layer in layers:
        most = layout.largest_rank(*layer.shape)
        assert 1 <= most < min(layer.shape)
        assert layout.values(*layer.shape, most) <= layer.size
        if layout.supports(layer):
            assert layout.refusal(layer, most, ()) is None
            if most + 1 < min(layer.shape):
                assert layout.refusal(layer, most + 1, ()) is Untouched.NOT_SMALLER
        else:
            assert layout.refusal(layer, 1, ()) is Untouched.NO_FACTORS


@layouts
def test_new_names_may_not_be_taken(layout: Layout, layers: list[Layer]) -> None:
    layer = layers[0]
    stored = {*layout.names(layer.tensor), layout.bias_name(layer.tensor)}
    assert layout.new_names(layer) == stored - {"a.weight", "a.bias"}
    for name in layout.new_names(layer):
        assert layout.refusal(layer, RANK, (name,)) is Untouched.NAME_TAKEN


@layouts
def test_what_is_compressed_can_be_reconstructed(
    layout: Layout, layers: list[Layer], tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(tmp_path / "a.safetensors")
    made = Replacements(checkpoint)
    supported = [layer for layer in layers if layout.supports(layer)]
    for layer in supported:
        made.add(layer, factors(layer), layout)
    ranks = {layer.module: RANK for layer in supported} if layout.splits else {}
    written = Edited(checkpoint, made.finish(), Manifest("0", "a", "0", "auto", "select", ranks))
    for layer in supported:
        expected = factors(layer).product
        stored = layout.reconstruct(written, layer).rows(slice(None), 2.0)
        upright = expected if expected.shape[0] >= expected.shape[1] else expected.T
        np.testing.assert_allclose(stored, upright / 2, rtol=0, atol=1e-13 * np.abs(upright).max())
        if layer.view.rows is None:
            assert isinstance(layout, type(layout_of(written, layer.module))) or not layout.splits
            layout.check(written, layer.module)
            undone = layout.decompress(written, layer.module)
            assert undone.shape == checkpoint.infos[layer.tensor].shape
            np.testing.assert_allclose(undone.reshape(expected.shape), expected, atol=1e-12)
    if layout.splits:
        dense = Edited(written, join(written), None)
        assert dense.infos.keys() == checkpoint.infos.keys()
        assert dense.raw("a.bias").data.tobytes() == checkpoint.raw("a.bias").data.tobytes()


def test_the_command_names_every_layout() -> None:
    """The option's text is literal, because help must not import NumPy; it must be complete."""
    hints = get_type_hints(prune.command, include_extras=True)
    assert hints["layout"].__metadata__[0].metavar == "|".join(LAYOUTS.choices)
    assert inspect.signature(prune.command).parameters["layout"].default in LAYOUTS.choices
