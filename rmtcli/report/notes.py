"""Notes: sentences that a reader of a report must not miss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rmtcli.checkpoint import DIRECTORY, Checkpoint, format_of
from rmtcli.options import option
from rmtcli.planning import LayerPlan
from rmtcli.report.formatting import count_of

if TYPE_CHECKING:
    from rmtcli.calibration import Calibrated
    from rmtcli.evaluation import Comparison
    from rmtcli.planning.hidden import NarrowNetwork

#: A larger loss of accuracy, in points, is pointed out.
LARGE_DROP = 0.5
#: From this excess on, the loss on a calibration's own samples says too little to extrapolate.
SATURATED = 0.8


def not_measured() -> str:
    """That accuracy was not measured."""
    return (
        "accuracy was not measured. The edge separates noise from signal, not harmless from "
        f"harmful: give {option('data')} or {option('eval')} to measure the cost of pruning"
    )


AT_CHANCE = (
    "the dense network does no better than chance on this data, so there is nothing to lose, and "
    "the scores say nothing about pruning. Check the targets and how the inputs are prepared"
)


def made_by_default() -> str:
    """That a network was calibrated on inputs that were made."""
    return (
        "no inputs were given, so the network was calibrated on random tokens of its vocabulary "
        "and on English sentences. Text like that which it will read gives better results: pass it "
        f"with {option('calib')}"
    )


def tables_taken() -> str:
    """That a budget takes the tables of tokens."""
    return (
        f"the budget prunes the tables of tokens too, as with {option('embeddings')}, because "
        "otherwise the layers would keep less than a quarter of their weights; "
        f"{option('exclude')} leaves a table out"
    )


MADE_OF_NUMBERS = (
    "no inputs were given, so the network was calibrated on random token numbers: give text like "
    "that which it will read, tokenised, by calibration="
)

NO_SIBLINGS = "no two layers that may be pruned read the same input, so none share a right factor"


def on_cost(comparison: Comparison | None) -> tuple[str, ...]:
    """Notes on the cost of pruning: it was not measured, or it is large."""
    if comparison is None:
        return (not_measured(),)
    drop = comparison.drop
    if comparison.at_chance or drop is None or drop <= LARGE_DROP:
        return on_chance(comparison)
    return (
        f"pruning costs {drop:.2f} points of {comparison.rows.points}: some of the dropped "
        f"directions matter. Limit the loss with {option('max-drop')}, keep more, or leave layers "
        f"out with {option('exclude')}",
    )


def on_chance(comparison: Comparison) -> tuple[str, ...]:
    """That a dense network has nothing to lose, if it does no better than chance."""
    return (AT_CHANCE,) if comparison.at_chance else ()


def _instead() -> str:
    """What to do to prune more."""
    return (
        f"To prune more, say how much, as with {option('budget', '80%')}, and give inputs with "
        f"{option('calib')}; or measure with {option('data')}"
    )


def on_more_samples(calibrated: Calibrated | None) -> tuple[str, ...]:
    """That more calibration samples would help, and how many."""
    known = None if calibrated is None else calibrated.reliability
    if calibrated is None or known is None or known.more is None or known.more <= 1:
        return ()
    assert known.loss is not None
    least = "at least " if known.loss.excess > SATURATED else "about "
    count = rounded(known.more * calibrated.samples)
    return (
        f"more calibration samples would help: give {least}{count:,} instead of "
        f"{calibrated.samples:,} (the predicted loss is {known.loss.own:.2g} on these samples, and "
        f"{known.loss.apart:.2g} on others)",
    )


def rounded(number: float) -> int:
    """A number rounded to two digits."""
    digits = len(str(int(number)))
    return int(round(number, 2 - digits))


def on_trial(inputs: str, moved: float, most: float, pruned: int, spared: int) -> str:
    """What was tried without data, and what was left alone.

    Args:
        inputs: what the networks ran on, in words.
        moved: how far the outputs moved.
        most: the largest move that is accepted.
        pruned: number of layers that are pruned.
        spared: number of layers that are left alone.
    """
    tried = f"without data, the network was tried on {inputs} (seed 0)"
    if not spared:
        return f"{tried}: its outputs change by {moved:.2g}, and {most:g} is accepted"
    rest = f"; with {count_of(pruned, 'layer')}, they change by {moved:.2g}" if pruned else ""
    return (
        f"{tried}: {count_of(spared, 'layer')} would change its outputs by more than {most:g}, and "
        f"will not be pruned{rest}. {_instead()}"
    )


def on_trying(checkpoint: Checkpoint, pruned: Sequence[LayerPlan]) -> tuple[str, ...]:
    """That ``prune`` may leave more layers of a directory alone than an analysis says."""
    if not pruned or not checkpoint.is_directory:
        return ()
    return ("prune runs the network first, and leaves alone the layers that change its outputs",)


def on_untried(spared: int, why: str) -> str:
    """That layers were left alone because the network cannot be tried, and the reason."""
    return (
        f"{count_of(spared, 'layer')} will not be pruned, because the law alone is no evidence "
        f"there and the network cannot be tried without data ({why}). {_instead()}"
    )


def on_not_finite(names: Sequence[str]) -> tuple[str, ...]:
    """That tensors hold values that are NaN or infinite, by their names."""
    if not names:
        return ()
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"NaN or infinite values, which make a network's outputs meaningless, are in "
        f"{', '.join(names[:3])}{more}: repair the checkpoint",
    )


def on_extras(checkpoint: Checkpoint, target: Path) -> tuple[str, ...]:
    """Notes on how the input was read, and on what it holds besides weights."""
    return (*checkpoint.remarks, *_on_others(checkpoint, target))


def _on_others(checkpoint: Checkpoint, target: Path) -> tuple[str, ...]:
    """Notes on what the input holds besides weights: carried over or left out."""
    file_format = format_of(checkpoint, target)
    if file_format is DIRECTORY:
        return _on_directory(checkpoint)
    notes = sorted(set(checkpoint.metadata) - {"format"})
    if notes and not file_format.keeps_metadata:
        return (
            f"not carried over, because a {file_format.name} file cannot hold metadata: "
            f"{', '.join(notes)}",
        )
    if not checkpoint.extras:
        return ()
    names = ", ".join(checkpoint.extras)
    if not file_format.keeps_extras:
        return (f"not carried over, because {file_format.name} holds only tensors: {names}",)
    if any("optim" in name for name in checkpoint.extras):
        return (f"copied unchanged: {names}. The optimizer's state fits only the dense network",)
    return (f"copied unchanged: {names}",)


def _on_directory(checkpoint: Checkpoint) -> tuple[str, ...]:
    from rmtcli.checkpoint.huggingface.write import left_out, source_of

    files = left_out(source_of(checkpoint))
    if not files:
        return ()
    return (f"left out, because they hold the dense network: {', '.join(files)}",)


#: What opens a directory whose layers transformers alone would not build.
_BY_LOADER = (
    "transformers opens the directory after 'import rmtcli.integrations.transformers', or with "
    "trust_remote_code=True"
)


def on_widths(network: NarrowNetwork, *, rounded: bool) -> tuple[str, ...]:
    """What opens a directory with narrower hidden layers, and what changed in its configuration.

    Args:
        network: the narrower network.
        rounded: whether matrices are stored in few bits, which a plain model has not.
    """
    changed = ", ".join(f"{entry} {width}" for entry, width in network.entries.items())
    if network.loaded:
        return (
            f"each hidden layer has a width of its own: {_BY_LOADER}; without "
            f"{option('per-block')}, they have one width, and a directory whose layers are not "
            "split opens without rmtcli",
        )
    if not network.entries:
        return ()
    plain = (
        "; transformers opens the directory without rmtcli, as a plain model of this architecture"
    )
    return (f"config.json now has {changed}{'' if rounded else plain}",)


def on_opening(checkpoint: Checkpoint, pruned: Sequence[LayerPlan]) -> tuple[str, ...]:
    """What opens a network whose layers' layouts the user did not choose."""
    if not any(plan.layout.splits for plan in pruned):
        return ()
    how = f"{_BY_LOADER}; " if checkpoint.is_directory else ""  # a file's report has the line
    return (f"{how}{option('layout', 'narrow')} gives a network that opens without rmtcli",)


def on_loading(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Notes on loading a directory whose layers are split."""
    from rmtcli.checkpoint.huggingface.loading import LOADER, config_class
    from rmtcli.checkpoint.huggingface.write import source_of

    config = source_of(checkpoint).config
    classes = config.get("auto_map")
    own = str(classes.get("AutoConfig", LOADER) if isinstance(classes, dict) else LOADER)
    if not own.startswith(LOADER.removesuffix(".py")):
        why = "the model comes with its own code"
    elif config_class(config) is None:
        why = "transformers does not know this model type here, or is not installed"
    else:
        return ()
    return (
        f"loads only after 'import rmtcli.integrations.transformers': {why}. A program that loads "
        "the weights without strict=True silently leaves the split layers at random values",
    )
