"""Sentences that a reader of a report must not miss."""

from __future__ import annotations

from pathlib import Path

from rmtcli.checkpoint import DIRECTORY, Checkpoint, format_of
from rmtcli.evaluation import Comparison

#: Points of accuracy whose loss a report points out.
LARGE_DROP = 0.5

NOT_MEASURED = (
    "accuracy: not measured. The edge tells noise from signal, not harmless from harmful: "
    "give --data or --eval to see what pruning costs"
)

NO_SIBLINGS = "no two layers that may be pruned read the same input: none share a right factor"

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
    what = "accuracy" if comparison.cosines is None else "cosine"
    return (
        f"pruning costs {drop:.2f} points of {what}: here, what was dropped matters. "
        "Let --max-drop find what can go, keep more, or leave layers out with --exclude",
    )


def on_extras(checkpoint: Checkpoint, target: Path) -> tuple[str, ...]:
    """What a reader must know about what stands beside the weights."""
    file_format = format_of(checkpoint, target)
    if file_format is DIRECTORY:
        return _on_directory(checkpoint)
    notes = sorted(set(checkpoint.metadata) - {"format"})
    if notes and not file_format.keeps_metadata:
        return (
            f"not carried over, because a {file_format.name} file has no room for notes: "
            f"{', '.join(notes)}",
        )
    if not checkpoint.extras:
        return ()
    names = ", ".join(checkpoint.extras)
    if not file_format.keeps_extras:
        return (f"not carried over, because {file_format.name} holds tensors only: {names}",)
    if any("optim" in name for name in checkpoint.extras):
        return (f"kept as they are: {names}. An optimizer's state fits the dense network only",)
    return (f"kept as they are: {names}",)


def _on_directory(checkpoint: Checkpoint) -> tuple[str, ...]:
    from rmtcli.checkpoint.huggingface.write import left_out, source_of

    files = left_out(source_of(checkpoint))
    if not files:
        return ()
    return (f"left out, because they hold the dense network: {', '.join(files)}",)


def on_loading(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What a reader must know about loading a directory whose layers are split."""
    from rmtcli.checkpoint.huggingface.write import config_class, source_of

    config = source_of(checkpoint).config
    if "AutoConfig" in (config.get("auto_map") or {}):
        why = "the model brings code of its own"
    elif config_class(config) is None:
        why = "transformers, asked here, has no such model type or is not installed"
    else:
        return ()
    return (f"loads after 'import rmtcli.integrations.transformers' only: {why}",)
