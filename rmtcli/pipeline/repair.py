"""Write the adapter that brings a compressed network nearer to the dense one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rmtcli.calibration import Calibration
from rmtcli.checkpoint import Checkpoint, Openable, open_checkpoint
from rmtcli.computing.gradients import outside_inference_mode
from rmtcli.errors import LayerError
from rmtcli.evaluation import Evaluation
from rmtcli.layers import Selection
from rmtcli.pipeline.adapt import adapt
from rmtcli.pipeline.adapter_output import AdapterOutput, report_of
from rmtcli.pipeline.adapter_ranks import AdapterGoal
from rmtcli.pipeline.changes import Pair
from rmtcli.pipeline.fits import Track
from rmtcli.pipeline.request import Refuse
from rmtcli.planning import Budget, Goal
from rmtcli.report.base import Report


@outside_inference_mode
def repair(
    dense: Openable,
    small: Openable,
    output: str | Path | None = None,
    *,
    key: str | None = None,
    keep: str = "auto",
    budget: Budget | str | None = None,
    max_rank: int | None = None,
    edge: str = "change",
    whole: Sequence[str] = (),
    style: str = "peft",
    prefix: str = "lora_unet",
    selection: Selection | None = None,
    evaluation: Evaluation | None = None,
    calibration: Calibration | None = None,
    dry_run: bool = False,
    refuse: Refuse = lambda report: (),
    force: bool = False,
    track: Track = iter,
) -> Report:
    """Write the adapter that brings a compressed network nearer to the dense one.

    It holds the part of low rank of what compression took from each layer, W_dense − W_small: what
    stands above the edge in the metric of the calibration, in which the squares of the singular
    values are losses. A bias takes up the mean of the rest. Without calibration, the edge is that
    of the difference itself.

    Args:
        dense: the dense network: the path of a file or Hugging Face directory, a torch module, or a
            state dict.
        small: the compressed network, which has the dense one's names: in few bits, with factors
            that rmtcli wrote, or pruned by another program.
        output: the directory to write, or in kohya's style the file; by default
            ``<name of small>.repair`` beside it.
        key: which state dict, in both files, where a torch file holds several.
        keep: keep rule with options, such as ``"rank:k=8"``.
        budget: most parameters of all factors together, as a number or as a share of the compressed
            network's such as ``"2%"``.
        max_rank: largest rank of a layer.
        edge: edge estimator with options.
        whole: names or patterns of tensors that the adapter holds whole, as the dense network has
            them; all others that differ stay those of the compressed network.
        style: ``peft``, or ``kohya`` for one file as sd-scripts writes it.
        prefix: what names begin with in kohya's style.
        selection: which matrices are layers.
        evaluation: how the dense network is built and fed for calibration and, with samples or a
            score, what the repaired one is compared with it on.
        calibration: inputs of the dense network, or statistics of it.
        dry_run: report, but write nothing.
        refuse: takes the report, and returns reasons why nothing is to be written.
        force: whether an existing output may be replaced.
        track: wraps the iteration over layers, for progress.

    Returns:
        The report, with the loss of each layer before and after. Its ``output`` is None where no
        adapter is written: in a dry run, where nothing is above the edge, and where ``refuse``
        returns a reason.

    Raises:
        UsageError: a wrong option or path.
        CheckpointError: a file cannot be read, or the output differs from the adapter.
        LayerError: the two are not one network before and after compression, or a layer's values
            are not finite.
        EvaluationError: the network cannot be built or fed.
    """
    compressed = open_checkpoint(small, key=key)
    _refuse_narrow(compressed)
    pair = Pair.open(small, dense, key)
    ranks = Goal(keep, Budget.of(budget), None)
    goal = AdapterGoal(ranks, max_rank, edge, tuple(whole), repairs=True)
    target = AdapterOutput.of(
        pair, small, output, word="repair", style=style, prefix=prefix, force=force
    )
    if not dry_run:
        target.check(pair)
    settings = evaluation or Evaluation(), calibration or Calibration()
    adapted = adapt(pair, goal, selection, *settings, saves=target.saves, track=track)
    report = report_of("repair", pair, goal, adapted, target.style)
    report = replace(report, notes=(*report.notes, *_on_base(compressed)))
    if dry_run or not report.pruned or refuse(report):
        return report
    return target.write(report, adapted)


def _refuse_narrow(small: Checkpoint) -> None:
    """Refuse a network with fewer hidden units than the dense one: no adapter brings them back.

    Raises:
        LayerError: it has fewer.
    """
    if small.manifest is not None and small.manifest.narrowed:
        name = next(iter(small.manifest.narrowed))
        raise LayerError(
            f"{small.path}: its hidden layers are narrower than the dense network's (at '{name}'), "
            "and an adapter adds no units: finetune it, or prune with factors"
        )


def _on_base(small: Checkpoint) -> tuple[str, ...]:
    """How the base of the adapter is opened, if its layers are not stored as dense weights."""
    record = small.manifest
    if record is None or not (record.factored or record.packed):
        return ()
    what = "factors" if record.factored else "few bits"
    return (
        f"{small.path} holds {what}, and the adapter is for its dense form: write that with "
        "rmtcli densify, and load the adapter into it",
    )
