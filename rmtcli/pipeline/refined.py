"""Factors that were fitted again or healed, and the tensors that they make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from rmtcli.arrays import FloatArray
from rmtcli.calibration import Calibration, Folder
from rmtcli.checkpoint import Checkpoint, Edits
from rmtcli.checkpoint.names import bias_of, factors_of, unit_of
from rmtcli.evaluation import Harness
from rmtcli.layouts import Replacements
from rmtcli.options import option
from rmtcli.pipeline.stages import Planned
from rmtcli.planning import LayerCalibration, LayerPlan
from rmtcli.spectra import Factors

if TYPE_CHECKING:
    from rmtcli.running.refine import Refined
    from rmtcli.running.refine_in_parts import InParts


def on_undone(name: str) -> str:
    """The note on a refinement that was undone, by the name of its option."""
    return (
        f"{option(name)} was undone: on held-out inputs it made the network differ more from the "
        "dense network"
    )


def in_layout(
    values: Mapping[str, FloatArray], plans: Sequence[LayerPlan]
) -> tuple[dict[str, Factors], dict[str, FloatArray]]:
    """The trained values of a network whose layers are split in two factors, in their layouts.

    Args:
        values: by the names of the split network.
        plans: the layers, with the factors that were trained.

    Returns:
        Factors by layer name, and the values of all other tensors by the names of the layouts.
    """
    factors, others = dict[str, Factors](), dict(values)
    for plan in plans:
        assert plan.factors is not None
        for weight in (plan.layer.tensor, *plan.layer.tied):
            right, left, bias = factors_of(unit_of(weight))
            if left in others:  # a directory does not hold names that are tied to a table's
                sides = plan.layer.view.matrices(others.pop(left), others.pop(right))
                factors[plan.layer.name] = Factors(*sides, plan.factors.shift)
            if bias in others:
                others[plan.layout.bias_name(weight)] = others.pop(bias)
    return factors, others


def replaced(plan: LayerPlan) -> Iterator[str]:
    """Names of the tensors that a pruned layer's factors and bias may take the place of."""
    for weight in (plan.layer.tensor, *plan.layer.tied):
        yield from (weight, bias_of(weight))


def with_factors(planned: Planned, factors: Mapping[str, Factors]) -> Planned:
    """The plans with new factors, where there are some."""
    layers = (replace(x, factors=factors.get(x.layer.name, x.factors)) for x in planned.layers)
    return replace(planned, layers=tuple(layers))


def fitted_again(
    harness: Harness,
    planned: Planned,
    calibrations: Mapping[str, LayerCalibration],
    settings: Calibration,
    factored: Checkpoint,
) -> tuple[Planned, Refined]:
    """The plans with the factors of a sequential fit, if these are better.

    Args:
        harness: the dense network.
        planned: the plans, with factors.
        calibrations: results of calibration, by layer name.
        settings: the inputs.
        factored: the network with two factors in place of each weight.
    """
    from rmtcli.running.refine import Whole, refine  # needs torch

    pair = Whole(harness, factored, planned.pruned)
    refined = refine(harness, pair, planned.pruned, calibrations, settings)
    return with_factors(planned, pair.factors) if refined.helped else planned, refined


def fitted_in_parts(
    harness: Harness,
    planned: Planned,
    calibrations: Mapping[str, LayerCalibration],
    settings: Calibration,
    folder: Folder,
) -> tuple[Edits | None, Refined]:
    """The tensors of a sequential fit that runs block by block; None if these are no better."""
    from rmtcli.running.refine import refine  # needs torch
    from rmtcli.running.refine_in_parts import InParts

    with closing(InParts(harness, planned.pruned, folder)) as pair:
        refined = refine(harness, pair, planned.pruned, calibrations, settings)
        return _stored(harness, planned, pair) if refined.helped else None, refined


def healed_in_parts(
    harness: Harness,
    planned: Planned,
    settings: Calibration,
    folder: Folder,
    *,
    refitted: bool,
) -> Edits | None:
    """The tensors of a healing that runs block by block; None if these are no better.

    Args:
        harness: the dense network.
        planned: the plans.
        settings: the inputs, and how long to train.
        folder: the folder of the calibration.
        refitted: whether to start from the factors of a sequential fit.
    """
    from rmtcli.running.heal_in_parts import heal_in_parts  # needs torch
    from rmtcli.running.refine_in_parts import InParts

    with closing(InParts(harness, planned.pruned, folder, refitted=refitted)) as pair:
        helped = heal_in_parts(harness, pair, planned.pruned, settings, folder)
        return _stored(harness, planned, pair) if helped else None


def _stored(harness: Harness, planned: Planned, pair: InParts) -> Edits:
    """The tensors that hold the factors of the compressed network."""
    replacements = Replacements(harness.checkpoint)
    for plan in planned.pruned:
        replacements.add(plan.layer, pair.factors(plan), plan.layout)
    return replacements.finish()
