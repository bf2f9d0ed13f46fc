"""The result that a goal asks for: ranks by plan, rule or budget, or by a search within a limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from rmtcli.checkpoint import Edited
from rmtcli.evaluation import Comparison
from rmtcli.evaluation.measures import least_step
from rmtcli.keep import Untouched
from rmtcli.layouts import LAYOUTS
from rmtcli.pipeline.calibrate import measured_on
from rmtcli.pipeline.embeddings import rounded_tables
from rmtcli.pipeline.mixed import mixed
from rmtcli.pipeline.prepared import Prepared, Result
from rmtcli.pipeline.refined import on_undone
from rmtcli.pipeline.request import AUTO
from rmtcli.pipeline.rounding import Rounding, group_of, on_chosen, on_memory, on_rounding
from rmtcli.pipeline.timing import uses_of
from rmtcli.pipeline.tried import tried
from rmtcli.planning import (
    CONFIDENCE,
    Allocation,
    BitAllocation,
    BitChoices,
    Division,
    Drop,
    Fitted,
    Guard,
    LayerCalibration,
    MixedAllocation,
    Plan,
    Range,
    Trial,
    WidthAllocation,
    allocation_of,
    by_plan,
    by_ranks,
    by_rule,
    measure,
    nothing_within,
    paired_drop,
    size_within,
    timed_allocation,
    widths_of,
)
from rmtcli.quantization import Grid

#: What a budget is divided among: ranks, widths, bits, or several of them.
AnyAllocation = Allocation | BitAllocation | WidthAllocation | MixedAllocation


def reach(prepared: Prepared) -> tuple[Result, Comparison | None, Guard | None]:
    """The result that the goal asks for, and its scores where there is something to score on."""
    goal = prepared.request.goal
    if goal.max_drop is not None:
        return search(prepared, goal.max_drop)
    result = decide(prepared)
    result = stored_in_bits(prepared, tried(prepared, result))
    return result, compare(prepared, result), None


def decide(prepared: Prepared) -> Result:
    """The result for ranks that need no measurement of the network: by plan, rule or budget."""
    goal, calibrations = prepared.request.goal, prepared.calibrations
    if goal.plan is not None:
        return replace(_by_plan(prepared, goal.plan), grids=goal.plan.grids)
    if goal.budget is None:
        return prepared.result(by_rule(goal.keep, calibrations))
    allocation = allocate(prepared)
    size = size_within(prepared.checkpoint, allocation, goal.budget, calibrations)
    return at_size(prepared, allocation, size)


def _by_plan(prepared: Prepared, plan: Plan) -> Result:
    """The result of a plan.

    Raises:
        LayerError: a hidden layer of the plan is none of the network.
    """
    layouts = {x.name: LAYOUTS.parse(x.layout) for x in plan.layers if x.layout is not None}
    widths = widths_of(plan, prepared.hidden, prepared.checkpoint.path)
    if prepared.hidden is None:
        return prepared.result(by_plan(plan, prepared.calibrations), layouts)
    allocation = allocate(prepared)
    if isinstance(allocation, MixedAllocation):
        return mixed(prepared, allocation.planned(widths, plan.ranks, layouts))
    return prepared.narrowed(widths, Untouched.PLAN)


def at_size(prepared: Prepared, allocation: AnyAllocation, size: int) -> Result:
    """The best result of at most a given size."""
    if isinstance(allocation, WidthAllocation):
        return prepared.narrowed(allocation.widths(size))
    if isinstance(allocation, MixedAllocation):
        design = allocation.best(size)
        return replace(mixed(prepared, design), grids=_grids(design.division))
    if isinstance(allocation, BitAllocation):
        allocation = allocation.settled(size)
    division = allocation.divide(size)
    result = prepared.result(by_ranks(division.ranks, prepared.calibrations), division.layouts)
    return replace(result, grids=_grids(division))


def _grids(division: Division) -> dict[str, Grid]:
    """The grids of the matrices for which a budget chose few bits."""
    return {name: Grid(bits) for name, bits in division.bits.items() if bits is not None}


def nothing(prepared: Prepared) -> Result:
    """The dense network, because no smaller one is within the limit."""
    if prepared.hidden is not None and not prepared.method.layout.ranks:
        return prepared.narrowed(prepared.hidden.dense, Untouched.GUARD)
    return prepared.result(nothing_within(prepared.calibrations))


def allocate(prepared: Prepared) -> AnyAllocation:
    """The layers that share a budget, with what their ranks or widths cost in its unit."""
    goal, hidden, calibrations = prepared.request.goal, prepared.hidden, prepared.calibrations
    fitted, ranks = prepared.held.fitted, _rank_allocation(prepared)
    if hidden is None or calibrations is None:
        return ranks(fitted)
    unit = "parameters" if goal.budget is None else goal.budget.unit
    unit = "bytes" if prepared.request.chooses_bits else unit
    timed = unit == "ms"
    multiple = goal.multiple(min(hidden.dense))
    path = hidden.allocation(calibrations, "macs" if timed else unit, multiple)
    if not (prepared.method.layout.ranks or prepared.request.chooses_bits):
        return path
    return MixedAllocation(hidden, calibrations, fitted, path, ranks, timed)


def _rank_allocation(
    prepared: Prepared,
) -> Callable[[Sequence[Fitted]], Allocation | BitAllocation]:
    """Gives the allocation of ranks, and perhaps bits, among some layers."""
    goal, layout = prepared.request.goal, prepared.method.layout
    checkpoint, calibrations = prepared.checkpoint, prepared.calibrations
    if prepared.request.chooses_bits:
        return _bit_choices(prepared).allocation
    if goal.budget is None or goal.budget.unit != "ms":
        return lambda fitted: allocation_of(checkpoint, fitted, calibrations, goal, layout)
    from rmtcli.running.clock import Clock  # needs torch

    assert goal.batch is not None
    uses = uses_of(calibrations)
    times = Clock(goal.batch, prepared.harness.evaluation.device, uses).times
    return lambda fitted: timed_allocation(checkpoint, fitted, calibrations, goal, layout, times)


def _bit_choices(prepared: Prepared) -> BitChoices:
    """The choices of ranks and bits, with what rounding each layer costs."""
    layouts = [layout for layout in prepared.method.layout.choices if layout.splits]
    known: Mapping[str, LayerCalibration] = prepared.calibrations or {}
    fitted = {item.layer.name: item for item in prepared.held.fitted}
    tables = rounded_tables(prepared.checkpoint, prepared.request, fitted)
    trials = prepared.trials
    for name, item in fitted.items():
        trials[name] = Trial(item.layer, item.approximation, known.get(name))
    trials.update({x.name: Trial(x, None, known.get(x.name)) for x in tables})
    losses = {name: measure(trial, layouts) for name, trial in trials.items()}
    return BitChoices(
        prepared.checkpoint,
        prepared.calibrations,
        layouts,
        prepared.request.choices,
        {name: loss for name, loss in losses.items() if loss is not None},
        prepared.request.goal.multiple(0),
        trials,
    )


def stored_in_bits(prepared: Prepared, result: Result) -> Result:
    """The result with every matrix in few bits, where that is asked for."""
    request, calibrated = prepared.request, prepared.calibrated is not None
    bits = request.bits
    whole = None if result.grids or bits == AUTO or bits is None else int(bits)
    if not result.grids and whole is None:
        return result
    known = result.calibrations or prepared.calibrations or {}
    tried = {name: x.rounded for name, x in prepared.trials.items() if x.rounded is not None}
    others = None if whole is None else Grid(whole, group_of(result.network))

    def rounding(network: Edited) -> Rounding:
        return Rounding(network, result.grids, others, known, tried)

    made, layers = rounding(result.network), result.planned.layers
    network, rounded = made.apply(layers)
    unhealed = result.unhealed and rounding(result.unhealed).apply(layers)[0]
    safe = bits == AUTO and request.goal.joint and not calibrated
    notes = on_rounding(whole, calibrated=calibrated), on_chosen(result.grids, safe=safe)
    result = replace(
        result,
        planned=replace(result.planned, layers=rounded),
        network=network,
        unhealed=unhealed,
        notes=(*result.notes, *notes[0], *notes[1], *on_memory(network)),
        grids=made.grids,
    )
    heals = request.heals_in_bits(result.planned.pruned)
    return _healed_in_bits(prepared, result) if heals else result


def _healed_in_bits(prepared: Prepared, result: Result) -> Result:
    """The result in few bits after it was trained, if that helps."""
    from rmtcli.running.heal_rounded import heal_rounded  # needs torch
    from rmtcli.running.heal_rounded_in_parts import heal_rounded_in_parts

    what = prepared.harness, result.network, prepared.request.calibration
    folder = prepared.folder
    healed = heal_rounded(*what) if folder is None else heal_rounded_in_parts(*what, folder)
    if healed is None:
        notes = (*result.notes, on_undone("heal"))
        return replace(result, notes=notes, undone=(*result.undone, "heal"))
    return replace(result, network=healed, unhealed=result.network)


def compare(prepared: Prepared, result: Result) -> Comparison | None:
    """The scores of the result beside the dense network's; None without anything to score on."""
    if not prepared.harness.evaluation.measures:
        return None
    # Only evaluation needs torch: safetensors files are analysed and pruned without it.
    from rmtcli.evaluation.score import Scorer

    scorer = prepared.scorer or Scorer(prepared.harness, prepared.harness)
    return scorer.compare(result.network, result.unhealed)


def search(prepared: Prepared, max_drop: float) -> tuple[Result, Comparison, Guard]:
    """The smallest network that loses at most ``max_drop``, with its scores."""
    from rmtcli.evaluation.score import Scorer
    from rmtcli.running import guarded

    harness, allocation = prepared.harness, allocate(prepared)

    @lru_cache(maxsize=3)  # the size that the search ends with is asked for again
    def at(size: int) -> Result:
        return stored_in_bits(prepared, at_size(prepared, allocation, size))

    sizes = Range(allocation.least, allocation.at_edge, allocation.total)
    samples = measured_on(harness, prepared.request.calibration)
    end = guarded.search(harness, samples, lambda n: at(n).network, sizes, max_drop)
    result = stored_in_bits(prepared, nothing(prepared)) if end is None else at(end[0])
    comparison = Scorer(harness, harness, samples).compare(result.network, result.unhealed)
    return result, comparison, guard_of(None if end is None else end[1], comparison, max_drop)


def guard_of(drop: Drop | None, comparison: Comparison, max_drop: float) -> Guard:
    """The limit of a search that has ended, and how certain it is that it is kept.

    Args:
        drop: what the network that was chosen loses; None where none is within the limit.
        comparison: its scores.
        max_drop: the limit.
    """
    samples, scored = comparison.samples, comparison.after.scored
    searched = 0 if samples is None else len(samples.inputs)
    if drop is None:
        return Guard(max_drop, searched, None, None)
    # Nothing is known of the spread of a score of the user's own that is one number.
    own = comparison.after.score is not None and scored is None
    searched = searched if scored is None else len(scored)
    # A search selects what is lucky, so no more is claimed than was asked for.
    confidence = None if own else min(drop.confidence(max_drop), CONFIDENCE)
    return Guard(max_drop, searched, drop.drop, confidence)


def accuracy_drop(comparison: Comparison) -> Drop | None:
    """The quality lost, sample by sample; None where it was not measured on both networks."""
    before, after = comparison.before, comparison.after
    if before is None or before.merits is None or after.merits is None:
        return None
    step = least_step(before.outputs, comparison.rows)
    return paired_drop(before.merits, after.merits, step)
