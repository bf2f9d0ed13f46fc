"""An adapter of two networks: its ranks by a rule, a budget, or a search within a limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from rmtcli.calibration import Calibration
from rmtcli.checkpoint import Edited
from rmtcli.checkpoint.in_file import InFile
from rmtcli.checkpoint.spill import Stored
from rmtcli.errors import LayerError
from rmtcli.evaluation import Evaluation, Harness
from rmtcli.layers import Selection
from rmtcli.options import option
from rmtcli.pipeline.adapted import Adapted, Changes
from rmtcli.pipeline.adapter_ranks import AdapterGoal, by_budget, by_rule, sizes_of
from rmtcli.pipeline.calibrate import measured_on
from rmtcli.pipeline.changes import Pair
from rmtcli.pipeline.decide import guard_of
from rmtcli.pipeline.fits import Track


def adapt(
    pair: Pair,
    goal: AdapterGoal,
    selection: Selection | None,
    evaluation: Evaluation,
    calibration: Calibration,
    *,
    saves: bool,
    track: Track,
) -> Adapted:
    """Decide the ranks of all layers' changes, and make the parts of the adapter.

    Args:
        pair: the network before and after training; or, for a repair, compressed and dense.
        goal: how ranks are decided.
        selection: which matrices are layers.
        evaluation: how the network is built and fed for calibration (the base, or the dense one),
            and what the result is scored on beside the network that the adapter leads to.
        calibration: inputs, if there are any.
        saves: whether the adapter's style holds tensors whole.
        track: wraps the iteration over layers, for progress.

    Raises:
        UsageError: a wrong option, or a pattern that matches nothing.
        LayerError: no layer, values that are not finite, or no adapter within the limit.
        EvaluationError: a network cannot be built, fed or scored.
    """
    target = evaluation.resolve(pair.tuned)
    harness = target if goal.repairs else evaluation.resolve(pair.base)
    changes = Changes.of(pair, goal, selection, harness, calibration, saves=saves, track=track)
    if goal.ranks.max_drop is not None:
        return _within(changes, target, calibration, goal.ranks.max_drop)
    budget, known = goal.ranks.budget, changes.calibrations
    choose = by_rule(goal, known)
    if budget is not None:
        size = budget.amount(pair.base.parameters)
        choose = by_budget(changes.held.fitted, goal, size, known)
    adapted = changes.adapted(choose)
    return _compared(pair, adapted, target, calibration) if evaluation.measures else adapted


def _within(
    changes: Changes, harness: Harness, calibration: Calibration, max_drop: float
) -> Adapted:
    """The smallest adapter with which the base loses at most ``max_drop`` to the tuned network.

    Raises:
        LayerError: there is none.
    """
    from rmtcli.running import guarded  # needs torch

    pair, goal, fitted = changes.pair, changes.goal, changes.held.fitted

    @lru_cache(maxsize=3)  # the size that the search ends with is asked for again
    def at(size: int) -> Adapted:
        return changes.adapted(by_budget(fitted, goal, size, changes.calibrations))

    sizes = sizes_of(fitted, goal, changes.calibrations)
    samples = measured_on(harness, calibration)
    end = guarded.search(harness, samples, lambda n: _network(pair, at(n)), sizes, max_drop)
    if end is None:
        raise LayerError(
            f"{pair.tuned.path}: no adapter is within {option('max-drop', max_drop)}: allow more, "
            f"or a larger {option('max-rank')}, or hold what is left out with {option('whole')}"
        )
    adapted = _compared(pair, at(end[0]), harness, calibration)
    assert adapted.comparison is not None
    return replace(adapted, guard=guard_of(end[1], adapted.comparison, max_drop))


def _compared(pair: Pair, adapted: Adapted, harness: Harness, calibration: Calibration) -> Adapted:
    """The adapter with the scores of its network beside those of the one that it leads to."""
    from rmtcli.evaluation.score import Scorer  # needs torch

    scorer = Scorer(harness, harness, measured_on(harness, calibration))
    comparison = scorer.compare(_network(pair, adapted), certify=False)
    notes = tuple(dict.fromkeys((*adapted.notes, *harness.notes)))
    return replace(adapted, comparison=comparison, notes=notes)


def _network(pair: Pair, adapted: Adapted) -> Edited:
    """The tuned checkpoint with the base's weights, to which the adapter is added.

    What the adapter holds whole, and what the base does not have in one shape, stays.
    """
    from rmtcli.adapters.merged import Merged  # needs torch

    base, tuned = pair.base.infos, pair.tuned.infos
    layers = [plan.layer for plan in adapted.plans if plan.untouched is None]
    changes = {x.tensor: (x, made) for x, made in zip(layers, adapted.layers, strict=True)}
    values: dict[str, Stored] = {}
    edits: dict[str, Mapping[str, Stored]] = {}
    for name, info in tuned.items():
        if name in adapted.saved or name not in base or base[name].shape != info.shape:
            continue
        first = pair.tuned.aliases.get(name, name)
        if first not in values:
            values[first] = own = InFile(pair.base, name)
            if name in changes:
                layer, made = changes[name]
                values[first] = Merged(own, made, layer.view.transposed)
        edits[name] = {name: values[first]}
    return Edited(pair.tuned, edits, None)
