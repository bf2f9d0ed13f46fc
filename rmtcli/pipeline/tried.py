"""A result of ``auto`` without data is tried on inputs that need no file before it is believed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from rmtcli.edges import Verdict
from rmtcli.errors import CheckpointError, EvaluationError, UsageError
from rmtcli.keep import Untouched
from rmtcli.pipeline.prepared import Prepared, Result
from rmtcli.planning import LayerPlan
from rmtcli.report.notes import on_trial, on_untried


def tried(prepared: Prepared, result: Result) -> Result:
    """The result, less the layers that would move the network's outputs too far.

    Only ``auto`` is tried, and only where nothing is measured: another rule is a user's own choice.
    A file needs torch to be run, so it is run only if a layer is merely near the law, or if the
    user names the network.
    """
    plans, evaluation = result.planned.pruned, prepared.harness.evaluation
    named = prepared.harness.pretrained or prepared.harness.model is not None
    if not prepared.request.goal.tries or evaluation.measures or prepared.calibrations is not None:
        return result
    doubtful = [plan for plan in plans if named or plan.fit.verdict is Verdict.NEAR]
    if not doubtful:
        return result
    from rmtcli.running.trial import Trial  # needs torch

    try:
        trial = Trial(prepared.harness)
    except (UsageError, EvaluationError, CheckpointError) as error:
        if isinstance(error, UsageError) and evaluation.model is not None:
            raise  # the network that the user names cannot be made
        names = _with_neighbours(plans, doubtful)
        spared = prepared.sparing(result, names, Untouched.UNTRIED)
        return replace(spared, notes=(*result.notes, on_untried(len(names), str(error))))

    def without(names: Collection[str]) -> Result:
        return prepared.sparing(result, names, Untouched.MOVES)

    layers = [plan.layer for plan in plans]
    moves = trial.moves(result.network, layers, lambda names: without(names).network)
    names, moved = _outliers(plans, moves, trial.most)
    note = on_trial(trial.inputs, moved, trial.most, len(plans) - len(names), len(names))
    return replace(without(names), notes=(*result.notes, note))


def _outliers(
    plans: Collection[LayerPlan], move: Callable[[Collection[str]], float], most: float
) -> tuple[set[str], float]:
    """The layers to leave alone so that the outputs move little: those that move them most.

    Layers are tried one at a time and sorted by their own moves; then as many of the first as can
    be pruned together are found by bisection.

    Args:
        plans: the pruned layers.
        move: how far outputs move with all layers pruned but some.
        most: the largest move that counts as small.

    Returns:
        Names of the layers to leave alone, and how far the outputs move without them.
    """
    everything = {plan.layer.name for plan in plans}
    moved = move(())
    if moved <= most:
        return set(), moved
    tensors = dict.fromkeys(plan.layer.tensor for plan in plans)
    groups = [{p.layer.name for p in plans if p.layer.tensor == tensor} for tensor in tensors]
    moves = [move(everything - group) if len(groups) > 1 else moved for group in groups]
    order = sorted(range(len(groups)), key=moves.__getitem__)
    low, high, moved = 0, sum(own <= most for own in moves) + 1, 0.0
    while high - low > 1:
        middle = (low + high) // 2
        others = {name for i in order[middle:] for name in groups[i]}
        now = moves[order[0]] if middle == 1 else move(others)
        if now <= most:
            low, moved = middle, now
        else:
            high = middle
    return {name for i in order[low:] for name in groups[i]}, moved


def _with_neighbours(plans: Collection[LayerPlan], some: Collection[LayerPlan]) -> set[str]:
    """Names of layers, and of all others that are parts of the same tensors."""
    tensors = {plan.layer.tensor for plan in some}
    return {plan.layer.name for plan in plans if plan.layer.tensor in tensors}
