"""One budget for widths and ranks: losses of cut layers, and the best network on the path."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rmtcli.calibration import ByLayer, Moments, decompose, metric_losses, narrow_units
from rmtcli.checkpoint import open_checkpoint
from rmtcli.edges import EDGES
from rmtcli.layers import Block, Layer, find_layers
from rmtcli.layouts import LAYOUTS, Factored, Pivoted
from rmtcli.planning import (
    Budget,
    CutLayers,
    Goal,
    HiddenLayer,
    HiddenLayers,
    LayerCalibration,
    MixedAllocation,
    allocation_of,
    fit_layer,
)

SIZES = (30, 60, 50, 35)


def moments(inputs: int, outputs: int, seed: int) -> Moments:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((400, inputs)) * np.exp(-3 * np.arange(inputs) / inputs) + 0.3
    g = rng.standard_normal((400, outputs)) * np.exp(-np.arange(outputs) / outputs)
    return Moments(400, 400, x.mean(0), x.T @ x / 400, g.T @ g / 400)


@pytest.fixture
def hidden(tmp_path_factory: pytest.TempPathFactory) -> tuple[HiddenLayers, ByLayer]:
    """A chain with two hidden layers, and calibrations of its three layers."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("chain") / "net.safetensors"
    chain = nn.Sequential(*(nn.Linear(a, b, dtype=torch.float64) for a, b in pairwise(SIZES)))
    save_file(chain.state_dict(), path)
    checkpoint = open_checkpoint(path)
    layers = {item.name: item for item in find_layers(checkpoint) if isinstance(item, Layer)}
    seen = {
        name: LayerCalibration(moments(layer.shape[1], layer.shape[0], seed), True, True)
        for seed, (name, layer) in enumerate(layers.items())
    }
    made = []
    for writer, reader in pairwise(layers):
        options = {"bias": True, "gradients": True}
        order = narrow_units([layers[reader].load()], [seen[reader].moments], **options)
        block = Block(layers[writer].shape[0], (writer,), (reader,))
        made.append(HiddenLayer((block,), (order,)))
    return HiddenLayers(checkpoint, layers, tuple(made), frozenset(layers)), ByLayer(seen, {})


def mixed(hidden: HiddenLayers, seen: ByLayer, unit: str = "parameters") -> MixedAllocation:
    fitted = []
    for layer in hidden.layers.values():
        edge = EDGES.parse("select")
        item = fit_layer(layer, edge, approximate=True, calibration=seen[layer.name])
        fitted.append(item)
    goal, layout = Goal("auto", Budget("50%", unit), None), LAYOUTS.parse("auto")
    return MixedAllocation(
        hidden,
        seen,
        fitted,
        hidden.allocation(seen, unit, 1),
        lambda items: allocation_of(hidden.checkpoint, items, seen, goal, layout),
    )


@pytest.mark.parametrize("shape", [(40, 25), (25, 40)])
@pytest.mark.parametrize(("bias", "gradients"), [(True, True), (False, False), (True, False)])
def test_losses_are_those_of_the_decomposition(
    shape: tuple[int, int], bias: bool, gradients: bool
) -> None:
    weight = np.random.default_rng(3).standard_normal(shape)
    seen = moments(shape[1], shape[0], 4)
    options = {"bias": bias, "gradients": gradients}
    expected = decompose(weight, seen, **options).losses
    np.testing.assert_allclose(
        metric_losses(weight, seen, **options), expected, rtol=1e-8, atol=1e-12 * expected[0]
    )


def test_the_losses_of_a_width_and_of_a_rank_add_up(
    hidden: tuple[HiddenLayers, ByLayer],
) -> None:
    """E‖R(Wh − A h_P)‖² is the loss of the width plus that of the rank, for the fitted reader."""
    network, seen = hidden
    name, width, rank = "1.weight", 37, 9
    cut = CutLayers(network, seen, (width, SIZES[2]))
    own, order = seen[name].moments, network.hidden[0].narrowings[0]
    units = order.units(width)
    whole = np.zeros((SIZES[2], SIZES[1]))
    whole[:, units] = cut.decomposed(name).factors(rank).product
    error = network.layers[name].load() - whole
    values, vectors = np.linalg.eigh(own.gradient)
    root = np.sqrt(np.maximum(values, 1e-4 * values[-1]))[:, None] * vectors.T
    exact = np.sum((root @ error @ own.covariance) * (root @ error))
    predicted = order.losses[width] + cut.losses(name)[rank:].sum()
    assert predicted == pytest.approx(exact, rel=1e-3)  # the ridge is between them


def test_a_cut_layer_has_the_units_that_stay(hidden: tuple[HiddenLayers, ByLayer]) -> None:
    network, seen = hidden
    cut = CutLayers(network, seen, (37, 20))
    assert cut.weight("1.weight").shape == (20, 37)
    assert cut.calibration("1.weight").moments.shapes == ((37,), (37, 37), (20, 20))
    assert cut.weight("2.weight").shape == (SIZES[3], 20)
    kept = CutLayers(network, seen, (60, 50))
    assert not any(kept.changes(name) for name in network.layers)
    assert kept.calibration("1.weight").moments.shapes == seen["1.weight"].moments.shapes


@pytest.mark.parametrize("unit", ["parameters", "bytes", "macs"])
def test_the_best_network_is_the_best_point_of_the_path(
    hidden: tuple[HiddenLayers, ByLayer], unit: str
) -> None:
    allocation = mixed(*hidden, unit)
    for share in (0.8, 0.5, 0.3, 0.15):
        size = round(share * allocation.total)
        best = allocation.best(size)
        alone = allocation.allocate(allocation.fitted)
        if alone.least <= size:
            assert best.loss <= alone.loss(alone.ranks(size))
        at = allocation._at(best.widths)
        shapes = {x.layer.name: x.layer.shape for x in best.fitted}
        assert shapes["1.weight"] == best.widths[::-1]
        pairs = zip(at.groups, at.options, strict=True)
        saved = sum(
            options.dense - options.cost(rank)
            for (item,), options in pairs
            if isinstance(rank := best.division.ranks[item.layer.name], int)
        )
        assert 0.96 * size <= at.total - saved <= size


def test_a_size_that_no_widths_reach_is_an_error(hidden: tuple[HiddenLayers, ByLayer]) -> None:
    allocation = mixed(*hidden)
    with pytest.raises(ValueError, match="no widths and ranks cost"):
        allocation.best(allocation.least - 1)
    assert allocation.best(allocation.least).division.ranks["1.weight"] == 1


def test_bytes_of_positions_make_small_ranks_factored(
    hidden: tuple[HiddenLayers, ByLayer],
) -> None:
    """Pivoting saves r² values of 8 bytes, and takes 4 bytes per output."""
    allocation = mixed(*hidden, "bytes")
    layouts = allocation.allocate(allocation.fitted).layouts[0]
    assert [type(x) for x in layouts[1:6]] == [Factored] * 5
    assert type(layouts[6]) is Pivoted
