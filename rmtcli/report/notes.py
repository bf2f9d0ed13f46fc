"""Sentences that a reader of a report must not miss."""

from __future__ import annotations

from pathlib import Path

from rmtcli.checkpoint import Checkpoint, container_of
from rmtcli.evaluation.base import Comparison

#: Points of accuracy whose loss a report points out.
LARGE_DROP = 0.5

NOT_MEASURED = (
    "accuracy: not measured. The edge tells noise from signal, not harmless from harmful: "
    "give --data or --eval to see what pruning costs"
)

TAILS = (
    "tail α depends on the aspect ratio: compare it between layers of one shape only "
    "(arXiv 2506.06280)"
)


def on_cost(comparison: Comparison | None) -> tuple[str, ...]:
    """What a reader must know about what pruning cost."""
    if comparison is None:
        return (NOT_MEASURED,)
    drop = comparison.drop
    if drop is None or drop <= LARGE_DROP:
        return ()
    return (
        f"pruning costs {drop:.2f} points of accuracy: here, what was dropped matters. "
        "Let --max-drop find what can go, keep more, or leave layers out with --exclude",
    )


def on_extras(checkpoint: Checkpoint, target: Path) -> tuple[str, ...]:
    """What a reader must know about what stands beside the weights."""
    notes = sorted(set(checkpoint.metadata) - {"format"})
    if notes and container_of(target) != "safetensors":
        return (
            f"not carried over, because a torch file has no room for notes: {', '.join(notes)}",
        )
    if not checkpoint.extras:
        return ()
    names = ", ".join(checkpoint.extras)
    if container_of(target) == "safetensors":
        return (f"not carried over, because safetensors holds tensors only: {names}",)
    if any("optim" in name for name in checkpoint.extras):
        return (f"kept as they are: {names}. An optimizer's state fits the dense network only",)
    return (f"kept as they are: {names}",)
