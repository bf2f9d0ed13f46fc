"""Factors that rmtcli wrote: the dense weights of them, and files that have lost their record."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from rmtcli.checkpoint import Checkpoint, Edited, Edits
from rmtcli.checkpoint.names import factors_of, module_of
from rmtcli.layouts import join, split_modules
from rmtcli.planning import LayerPlan

#: Norms of two factors that differ by this factor are not those of rmtcli's, trained or not.
UNBALANCED = 1.25


def recorded(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint has a record of its factors."""
    return checkpoint.manifest is not None and bool(checkpoint.manifest.factored)


def whole(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with dense weights in place of the factors of its record."""
    return Edited(checkpoint, join(checkpoint), None) if recorded(checkpoint) else checkpoint


def dense_weights(checkpoint: Checkpoint, *, needed: bool) -> Edits:
    """The dense weights in place of all factors, also of those that a lost record does not name.

    Args:
        checkpoint: the checkpoint.
        needed: whether having none is an error.

    Raises:
        LayerError: there are none and some are needed, or they do not fit the record.
    """
    return join(checkpoint) if needed or split_modules(checkpoint) else {}


def balances(checkpoint: Checkpoint, modules: Iterable[str]) -> dict[str, float]:
    """By what factor the norms of the tensors differ that may be a module's factors.

    Factors are written with equal norms, and training keeps them so: LᵀL − RRᵀ does not change
    under gradient flow, and vanishes under weight decay (Arora et al., arXiv 1802.06509). Two
    layers that a network has of its own begin with other norms, unless its shapes balance them.

    Args:
        checkpoint: a checkpoint without a record.
        modules: modules that look split by their names.

    Returns:
        By the name of each module with a right and a left factor; of siblings that share the right
        one, by the name of the first.
    """
    factors = {module: factors_of(module) for module in modules}
    whole = {m: pair for m, pair in factors.items() if checkpoint.infos.keys() >= {*pair[:2]}}
    shared = checkpoint.ties(right for right, *_ in whole.values())
    tied = checkpoint.ties(left for _, left, _ in whole.values())  # of a head that is a table's
    norms: dict[str, tuple[float, float]] = {}  # of siblings, all left factors count
    names: dict[str, str] = {}
    for module, (right, left, _) in whole.items():
        if right in shared and left in tied:
            continue
        first = shared.get(right, right)
        names.setdefault(first, module)
        before = norms.get(first, (0.0, 0.0))[0]
        norms[first] = math.hypot(before, _norm(checkpoint, left)), _norm(checkpoint, right)
    return {
        names[first]: max(pair) / min(pair) if min(pair) else math.inf
        for first, pair in norms.items()
    }


def _norm(checkpoint: Checkpoint, name: str) -> float:
    return float(np.linalg.norm(checkpoint.array(name).astype("f8")))


def on_lost_record(checkpoint: Checkpoint, pruned: Iterable[LayerPlan]) -> tuple[str, ...]:
    """A note if layers that are pruned look like factors that rmtcli wrote before."""
    if recorded(checkpoint):
        return ()
    parents = {module_of(plan.layer.module) for plan in pruned}
    modules = [module for module in split_modules(checkpoint) if module in parents]
    known = [name for name, ratio in balances(checkpoint, modules).items() if ratio <= UNBALANCED]
    if not known:
        return ()
    more = f" and {len(known) - 3} more" if len(known) > 3 else ""
    return (
        f"by names and norms, these may be factors that rmtcli wrote, of which the file has no "
        f"record: {', '.join(known[:3])}{more}. If so, run densify first: factors of factors are "
        "worse than a smaller rank",
    )
