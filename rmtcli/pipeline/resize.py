"""Write an adapter of lower rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rmtcli.adapters import Adapter, Style, read_adapter, write_adapter
from rmtcli.adapters.files import check_adapter_target
from rmtcli.adapters.peft import CONFIG, WEIGHTS
from rmtcli.adapters.product import products, truncated
from rmtcli.adapters.ranks import Decision, Measured, by_rule, measure, within_budget
from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.checkpoint.spill import Spill
from rmtcli.edges import EDGES
from rmtcli.errors import LayerError, UsageError
from rmtcli.files import as_path
from rmtcli.keep import KEEP_RULES
from rmtcli.options import option
from rmtcli.pipeline.adapter_output import style_of
from rmtcli.pipeline.adapter_ranks import check_max_rank
from rmtcli.pipeline.request import default_output
from rmtcli.planning import Budget, Goal
from rmtcli.report.formatting import some_of
from rmtcli.report.resized import Resized, ResizedLayer

#: Rules that look at singular values only: no noise is fitted for them.
_WITHOUT_FIT = ("energy", "fraction", "rank", "relative", "hard-threshold")
#: Entries of PEFT's configuration that choose modules. Where a layer is dropped, names do.
_TARGETS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")


def resize(
    adapter: str | Path,
    output: str | Path | None = None,
    *,
    keep: str = "auto",
    budget: Budget | str | None = None,
    max_rank: int | None = None,
    edge: str = "select",
    style: str | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> Resized:
    """Write an adapter with the ranks that its singular values call for.

    ΔW = scale · B A of each layer is replaced by its best approximation of a lower rank, with the
    same scale. The product is never computed: singular values come from two QR decompositions.
    Ranks come from a keep rule, layer by layer, or from a budget for all layers together.

    Args:
        adapter: the directory of PEFT, or the file in kohya's style. It is never changed.
        output: what to write; by default ``<name>.resized`` beside the input.
        keep: keep rule with options, such as ``"energy:fraction=0.95"``. ``auto`` leaves a layer
            whose fit is not trusted as it is, and drops one without signal.
        budget: what the whole adapter may cost, such as ``"25%"`` of its parameters.
        max_rank: the largest rank of a layer, whatever rule or budget say.
        edge: edge estimator with options.
        style: ``peft`` or ``kohya``; by default the input's.
        dry_run: whether to write nothing.
        force: whether an existing output may be replaced.

    Returns:
        The ranks before and after, and the share of the norm that is kept.

    Raises:
        UsageError: a wrong option or path, or the style cannot hold the adapter.
        CheckpointError: the adapter cannot be read, or the output differs from what was intended.
        LayerError: no layer would be left or get a lower rank, or a value exceeds the type of the
            factors.
    """
    goal = _goal(keep, budget, max_rank)
    source = read_adapter(adapter)
    wanted = source.style if style is None else style_of(style)
    target = default_output(source.path, "resized") if output is None else as_path(output)
    if not dry_run:
        check_adapter_target(source, target, style=wanted, force=force)
    decided = _decided(source, goal, edge, max_rank)
    result = _resized(source, [item.rank for item in decided])
    if not dry_run:
        _refuse_useless(source, result, goal, wanted)
        write_adapter(result, target, style=wanted, force=force)
    return Resized(
        str(source.path),
        None if dry_run else str(target),
        goal.words + (f", at most rank {max_rank}" if max_rank is not None else ""),
        tuple(decided),
        sum(math.prod(stored.shape) for stored in source.saved.values()),
        (source.nbytes, result.nbytes),
        _on_other_files(source.path),
    )


def _refuse_useless(source: Adapter, result: Adapter, goal: Goal, wanted: Style) -> None:
    """Refuse to write an adapter without layers, or the one that was read.

    Raises:
        LayerError: it is one of these.
    """
    if not result.layers:
        raise LayerError(f"{source.path}: no layer has signal to keep: no adapter written")
    if result.layers == source.layers and wanted is source.style:
        raise LayerError(
            f"{source.path}: no layer gets a lower rank by {goal.words}: no adapter written; give "
            f"{option('budget')}, or a rule that needs no edge, such as "
            f"{option('keep', 'energy:fraction=0.99')}"
        )


def _on_other_files(path: Path) -> tuple[str, ...]:
    """A note on files beside an adapter's own, such as a tokenizer with new tokens."""
    if not path.is_dir():
        return ()
    names = sorted(file.name for file in path.iterdir() if file.name not in (CONFIG, *WEIGHTS))
    return (f"not copied: {some_of(names)}",) if names else ()


def _goal(keep: str, budget: Budget | str | None, max_rank: int | None) -> Goal:
    """How the ranks are decided.

    Raises:
        UsageError: an option that does not apply to adapters, or is out of range.
    """
    goal = Goal(keep, Budget.of(budget), None)
    if goal.budget is not None and goal.budget.unit not in ("parameters", "bytes"):
        raise UsageError("the budget of an adapter is in parameters or bytes")
    check_max_rank(max_rank)
    return goal


def _decided(source: Adapter, goal: Goal, edge: str, max_rank: int | None) -> list[ResizedLayer]:
    """The rank of each layer, and what is lost by it."""
    rule, estimator = KEEP_RULES.parse(goal.keep), EDGES.parse(edge)
    fits = goal.budget is None and goal.keep.partition(":")[0] not in _WITHOUT_FIT
    measured = measure(source.layers, estimator if fits else None)
    if goal.budget is None:
        decisions = [by_rule(item, rule) for item in measured]
    else:
        decisions = within_budget(measured, *_costs(source, goal.budget))
    return [
        _reported(item, decision, max_rank or decision.rank)
        for item, decision in zip(measured, decisions, strict=True)
    ]


def _costs(source: Adapter, budget: Budget) -> tuple[list[int], int]:
    """What a direction of each layer costs, and what is left for all of them.

    Raises:
        UsageError: the budget cannot be read, or other tensors exceed it.
    """
    counts = budget.unit == "parameters"
    costs = [sum(x.shape) * (1 if counts else TYPES[x.right.dtype].width) for x in source.layers]
    rest = sum(
        math.prod(stored.shape) if counts else stored.nbytes
        for stored in (*source.saved.values(), *(x.magnitude for x in source.layers))
        if stored is not None
    )
    total = rest + sum(x.rank * cost for x, cost in zip(source.layers, costs, strict=True))
    amount = budget.amount(total)
    if amount - rest < min(costs):
        raise UsageError(
            f"{source.path}: a budget of {budget.text} cannot be met: tensors beside the factors "
            f"take {budget.spell(rest)}"
        )
    return costs, amount - rest


def _reported(item: Measured, decision: Decision, limit: int) -> ResizedLayer:
    """The decision on a layer, with no rank above a limit, for the report."""
    before = item.layer.rank
    rank = min(decision.rank, limit, before)
    spikes = None if item.fit is None else item.spectrum.count_above(item.fit.edge)
    reason = decision.reason if rank in (0, before) else ""
    return ResizedLayer(item.layer, rank, item.kept(rank), item.norm, item.fit, spikes, reason)


def _resized(source: Adapter, ranks: Sequence[int]) -> Adapter:
    """The adapter with these ranks.

    Raises:
        LayerError: a value exceeds the type of the factors.
    """
    smaller = [i for i, layer in enumerate(source.layers) if 0 < ranks[i] < layer.rank]
    layers = {i: layer for i, layer in enumerate(source.layers) if ranks[i] == layer.rank}
    spill = Spill()
    for i, product in products([source.layers[i] for i in smaller]):
        index = smaller[i]
        layer = truncated(source.layers[index], product, ranks[index])
        left, right = spill.keep(layer.left.read()), spill.keep(layer.right.read())
        layers[index] = replace(layer, left=left, right=right)
    config = dict(source.config)
    if len(layers) < len(source.layers):
        config = {key: value for key, value in config.items() if key not in _TARGETS}
    return replace(source, layers=tuple(layers[i] for i in sorted(layers)), config=config)
