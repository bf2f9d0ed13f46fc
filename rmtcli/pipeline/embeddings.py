"""Tables of tokens in a budget that the other layers alone could meet badly or not at all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.evaluation import Harness
from rmtcli.layers import Layer, Selection, Skipped, SkipReason
from rmtcli.pipeline.request import Request
from rmtcli.pipeline.stages import layers_of
from rmtcli.report.notes import tables_taken

#: Share of the layers' weights below which tables take part.
LEAST = 0.25


def wanted_layers(harness: Harness, request: Request) -> list[Layer | Skipped]:
    """The layers that the selection names, and tables of tokens where a budget needs them.

    Of a model of transformers that is calibrated, a budget of parameters or bytes takes tables if
    the other layers would keep less than a quarter of their weights, and says so. Patterns to
    include settle what is taken. A plan that names a table takes it.

    Raises:
        UsageError: a pattern that matches nothing, or a budget that cannot be read.
        LayerError: there is no layer.
    """
    checkpoint, whole = harness.checkpoint, request.layout.splits
    items = layers_of(checkpoint, request.selection, whole=whole)
    selection, budget = request.selection or Selection(), request.goal.budget
    planned = {x.name for x in request.goal.plan.layers} if request.goal.plan else set()
    if planned - {item.name for item in items if isinstance(item, Layer)}:
        return layers_of(checkpoint, replace(selection, embeddings=True), whole=whole)
    if selection.embeddings or selection.include or budget is None or not request.layout.ranks:
        return items
    runs = harness.transformers and request.calibrates
    if not (runs and budget.unit in ("parameters", "bytes")):
        return items
    counts = budget.unit == "parameters"
    total = checkpoint.parameters if counts else checkpoint.bytes
    if total - budget.amount(total) <= (1 - LEAST) * _size(items, counts=counts):
        return items
    more = layers_of(checkpoint, replace(selection, embeddings=True), whole=whole)
    if any(isinstance(item, Layer) and item.view.table for item in more):
        harness.note([tables_taken()])
    return more


def rounded_tables(
    checkpoint: Checkpoint, request: Request, layers: Collection[str]
) -> list[Layer]:
    """Tables that are calibrated because they are stored in few bits, also those of positions.

    Args:
        checkpoint: the dense network.
        request: how it is to be pruned.
        layers: names of the layers, among which a table may be already.
    """
    if request.bits is None or not request.calibrates:
        return []
    whole, every = request.layout.splits, Selection(embeddings=True)
    others = [
        item.name
        for item in layers_of(checkpoint, every, whole=whole)
        if isinstance(item, Skipped) and item.reason is SkipReason.NO_TOKENS
    ]
    named = replace(every, include=("*", *others))
    tables = (x for x in layers_of(checkpoint, named, whole=whole) if isinstance(x, Layer))
    return [table for table in tables if table.view.table and table.name not in layers]


def _size(items: Sequence[Layer | Skipped], *, counts: bool) -> int:
    """Parameters or bytes of the layers that ranks can make smaller."""
    layers = (x for x in items if isinstance(x, Layer) and not x.head and x.view.splits)
    return sum(x.copies * x.size * (1 if counts else TYPES[x.dtype].width) for x in layers)
