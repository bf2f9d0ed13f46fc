"""One budget of bytes over ranks and bits: costs by hand, the best choices, predicted losses."""

from __future__ import annotations

import itertools
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rmtcli.calibration import ByLayer, Moments, decompose
from rmtcli.checkpoint import open_checkpoint
from rmtcli.edges import EDGES
from rmtcli.layers import Layer, Selection, find_layers
from rmtcli.layouts import Factored, Pivoted
from rmtcli.planning import (
    BITS,
    BitChoices,
    Fitted,
    LayerCalibration,
    Matrices,
    Metric,
    RoundingLoss,
    Trial,
    fit_layer,
    measure,
    round_matrices,
    round_rows,
)
from rmtcli.planning.packed_bytes import matrix_bytes
from rmtcli.quantization import ERRORS, Grid, nearest

SIZES = (96, 120, 80)
LAYOUTS = (Pivoted(), Factored())
TABLES = Selection(embeddings=True, min_side=0)


def calibration(outputs: int, inputs: int, seed: int) -> LayerCalibration:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((900, inputs)) * np.exp(-3 * np.arange(inputs) / inputs) + 0.3
    g = rng.standard_normal((900, outputs)) * np.exp(-np.arange(outputs) / outputs)
    return LayerCalibration(Moments(900, 900, x.mean(0), x.T @ x / 900, g.T @ g / 900), True, True)


@pytest.fixture(scope="module")
def choices(tmp_path_factory: pytest.TempPathFactory) -> tuple[BitChoices, list[Fitted]]:
    """A layer, an output head and a table without calibration."""
    torch.manual_seed(0)
    path: Path = tmp_path_factory.mktemp("two") / "net.safetensors"
    chain = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(SIZES)))
    save_file(chain.state_dict() | {"embed_tokens.weight": torch.randn(50, 40)}, path)
    checkpoint = open_checkpoint(path)
    layers = [item for item in find_layers(checkpoint) if isinstance(item, Layer)]
    seen = ByLayer({x.name: calibration(*x.shape, seed) for seed, x in enumerate(layers)}, {})
    fitted = []
    for layer in layers:
        edge = EDGES.parse("select")
        item = fit_layer(layer, edge, approximate=True, calibration=seen[layer.name])
        assert isinstance(item, Fitted)
        fitted.append(item)
    trials = {x.layer.name: Trial(x.layer, x.approximation, seen[x.layer.name]) for x in fitted}
    losses = {name: measure(trial, LAYOUTS) for name, trial in trials.items()}
    known = {name: loss for name, loss in losses.items() if loss is not None}
    return BitChoices(checkpoint, seen, LAYOUTS, (None, *BITS), known, trials=trials), fitted


def test_errors_are_those_of_normal_numbers() -> None:
    numbers = np.random.default_rng(0).standard_normal((300, 256))
    for bits, expected in ERRORS.items():
        error = np.mean((nearest(numbers, Grid(bits)).values - numbers) ** 2)
        assert error == pytest.approx(expected, rel=0.03)


def test_bytes_by_hand() -> None:
    assert matrix_bytes((5, 70), "F32", None) == 1400
    assert matrix_bytes((5, 30), "F16", 4) == 300  # its sides are too short
    # Nine words, a scale of two bytes for each row, and two whole numbers of the shape.
    assert matrix_bytes((5, 70), "F32", 4) == 5 * (4 * 9 + 2) + 16
    # A left factor is packed by columns: two words for 16 codes of 4 bits.
    assert matrix_bytes((80, 3), "F32", 4, left=True) == 3 * (4 * 10 + 2) + 16


def test_the_predicted_loss_of_rounding_is_near_the_real_one(
    choices: tuple[BitChoices, list[Fitted]],
) -> None:
    """At other bits than the four that were tried, and at other ranks than that which was."""
    maker, fitted = choices
    for item, bits in itertools.product(fitted, (6, 3)):
        assert maker.calibrations is not None
        seen = maker.calibrations[item.layer.name]
        metric, known = Metric.of(seen), maker.rounding[item.layer.name]
        weight = item.layer.load().astype(np.float64)
        assert item.approximation is not None
        factors = item.approximation.factors(30)
        tried = (
            (None, Matrices([weight])),
            (Factored(), Matrices([factors.right, factors.left])),
        )
        for layout, before in tried:
            parts = round_matrices(before, Grid(bits), metric)
            after = Matrices([part.values.astype(np.float64) for part in parts])
            real = metric.square(after.product - before.product)
            assert 0.5 * real < known.of(layout, bits) < 2 * real


@pytest.mark.parametrize("share", [10, 16])
def test_a_settled_choice_has_the_losses_that_rounding_has(
    choices: tuple[BitChoices, list[Fitted]], share: int
) -> None:
    """At first, the loss in other bits than the four that were tried is off by several percent."""
    made, fitted = choices
    made = replace(made, rounding=dict(made.rounding))
    first = made.allocation(fitted)
    size = first.total // share
    settled = first.settled(size)
    pairs = []
    for allocation in (first, settled):
        division, real, others = allocation.divide(size), 0.0, 0.0
        for item in fitted:
            name, rank = item.layer.name, division.ranks.get(item.layer.name)
            number, bits = rank if isinstance(rank, int) else 0, division.bits[name]
            assert bits is not None
            assert item.approximation is not None
            real += made.trials[name].loss(division.layouts.get(name), number, bits)
            real += float(item.approximation.losses[number:].sum()) if number else 0.0
        for x in allocation.others:
            known = {option.bits: loss for option, loss in zip(x.options, x.losses, strict=True)}
            others += known[division.bits[x.name]] if x.name not in made.trials else 0.0
        pairs.append((division.loss - others, real))
    assert pairs[1][0] == pytest.approx(pairs[1][1], rel=0.01)
    assert pairs[0][0] != pytest.approx(pairs[0][1], rel=0.03)
    assert pairs[1][1] <= pairs[0][1]


def test_the_predicted_loss_of_rounding_a_table_counts_its_tokens(tmp_path: Path) -> None:
    """The real one is that of each row, as often as its token occurs."""
    rng, (tokens, width) = np.random.default_rng(0), (400, 64)
    rows = rng.standard_normal((tokens, width)) * rng.uniform(0.5, 2, (tokens, 1))
    often = rng.permutation(1 / np.arange(1, tokens + 1))
    often /= often.sum()
    g = rng.standard_normal((900, width)) * np.exp(-3 * np.arange(width) / width)
    second, gradient = (rows.T * often) @ rows, g.T @ g / 900
    seen = Moments(900, 300, often @ rows, second, gradient, of_outputs=True)
    known = LayerCalibration(seen, False, True)
    save_file({"embed_tokens.weight": torch.tensor(rows)}, tmp_path / "table.safetensors")
    (table,) = find_layers(open_checkpoint(tmp_path / "table.safetensors"), TABLES)
    assert isinstance(table, Layer)
    best = decompose(rows.T, seen, bias=False, gradients=True)
    loss, metric = measure(Trial(table, best, known), LAYOUTS), Metric.of_rows(known, rows)
    assert loss is not None
    factors = best.factors(24)
    for bits in (6, 3):
        rounded = round_rows(rows, Grid(bits), metric).values - rows
        parts = (nearest(part, Grid(bits)).values for part in (factors.right.T, factors.left.T))
        split = np.matmul(*parts) - factors.right.T @ factors.left.T
        for layout, error in ((None, rounded), (Factored(), split)):
            real = 3 * often @ np.einsum("ti,ij,tj->t", error, gradient, error)
            assert 0.5 * real < loss.of(layout, bits) < 2 * real


def test_a_division_is_within_one_step_of_the_best(
    choices: tuple[BitChoices, list[Fitted]],
) -> None:
    """No single matrix can get another option that fits into the rest and loses less."""
    maker, fitted = choices
    allocation = maker.allocation(fitted)
    every = (*allocation.layers, *allocation.others)
    # The output head gets no rank.
    assert [x.name for x in allocation.others] == ["1.weight", "embed_tokens.weight"]
    fixed = allocation.total - sum(x.dense for x in every)
    for share in (0.9, 0.3, 0.2, 0.12, 0.08):
        size = round(share * allocation.total)
        made = allocation.divide(size)
        picks = []
        for x in every:
            rank = made.ranks.get(x.name)
            wanted = rank if isinstance(rank, int) else None, made.bits[x.tensors[0]]
            picks.append([(o.rank, o.bits) for o in x.options].index(wanted))
        cost = fixed + sum(int(x.costs[i]) for x, i in zip(every, picks, strict=True))
        assert cost <= size
        assert made.loss == pytest.approx(
            sum(x.losses[i] for x, i in zip(every, picks, strict=True))
        )
        for x, i in zip(every, picks, strict=True):
            better = (x.losses < x.losses[i]) & (x.costs <= x.costs[i] + size - cost)
            assert not better.any()


def test_options_are_ascending_in_cost_and_descending_in_loss(
    choices: tuple[BitChoices, list[Fitted]],
) -> None:
    allocation = choices[0].allocation(choices[1])
    for x in (*allocation.layers, *allocation.others):
        assert (np.diff(x.costs) > 0).all()
        assert (np.diff(x.losses) < 0).all()
        assert x.losses[-1] == 0
    with pytest.raises(ValueError, match="smallest"):
        allocation.divide(allocation.least - 1)
    assert allocation.divide(allocation.least).loss < np.inf


def test_an_unknown_matrix_loses_what_layers_do_and_not_what_tables_do(
    choices: tuple[BitChoices, list[Fitted]],
) -> None:
    made, fitted = choices
    first, second = (item.layer for item in fitted)
    known = dict(made.calibrations or {})
    moments = replace(known[second.name].moments, of_outputs=True)
    known[second.name] = replace(known[second.name], moments=moments)
    others = replace(made, calibrations=ByLayer(known, {})).allocation(fitted).others
    (table,) = (x for x in others if x.name == "embed_tokens.weight")
    entries = made.rounding[first.name].dense / first.size
    expected = [40 * 50 * entries * ERRORS.get(x.bits, 0) for x in table.options]
    assert table.losses == pytest.approx(expected)


def test_without_calibration_losses_follow_the_weight(
    choices: tuple[BitChoices, list[Fitted]],
) -> None:
    layer = choices[1][0].layer
    item = fit_layer(layer, EDGES.parse("select"), approximate=True)
    assert isinstance(item, Fitted)
    assert item.approximation is not None
    total = float(item.approximation.losses.sum())
    expected = RoundingLoss(total, {Pivoted: 2 * total, Factored: 2 * total})
    assert measure(Trial(layer, item.approximation, None), LAYOUTS) == expected
    assert expected.of(None, None) == 0
