"""Write the difference between two networks as a low-rank adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rmtcli.calibration import Calibration
from rmtcli.checkpoint import Openable
from rmtcli.computing.gradients import outside_inference_mode
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
def extract(
    base: Openable,
    tuned: Openable,
    output: str | Path | None = None,
    *,
    key: str | None = None,
    keep: str = "auto",
    budget: Budget | str | None = None,
    max_drop: float | None = None,
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
    """Write the difference between two networks as a low-rank adapter of the first one.

    The change of each layer, W_tuned − W_base, is a signal of low rank in the noise of training
    and rounding; the edge between the two gives each layer a rank of its own. Layers are read one
    after the other, so that memory holds a few of them.

    Args:
        base: the network before training: the path of a file or Hugging Face directory, a torch
            module, or a state dict.
        tuned: the network after training.
        output: the directory to write, or in kohya's style the file; by default
            ``<name of tuned>.adapter`` beside it.
        key: which state dict, in both files, where a torch file holds several.
        keep: keep rule with options, such as ``"energy:fraction=0.9"``.
        budget: most parameters of all factors together, as a number or as a share of the base such
            as ``"2%"``; the best ranks are chosen for all layers together.
        max_drop: the most that the base with the adapter may lose to the tuned network, in the
            units of :func:`rmtcli.prune`: the smallest adapter within it is searched for.
        max_rank: largest rank of a layer; vLLM, for one, opens no rank above its own limit.
        edge: edge estimator with options.
        whole: names or patterns of tensors that the adapter holds whole if they changed, beside
            biases and normalisations and tables with new rows: ``modules_to_save`` of PEFT.
        style: ``peft``, or ``kohya`` for one file as sd-scripts writes it.
        prefix: what names begin with in kohya's style.
        selection: which matrices are layers.
        evaluation: how the networks are built and fed, for calibration and, with samples or a
            score, to compare the base with the adapter with the tuned network.
        calibration: inputs of the base. The directions of a layer are then those that matter most
            to its outputs, or to the network's loss.
        dry_run: report, but write nothing.
        refuse: takes the report, and returns reasons why nothing is to be written.
        force: whether an existing output may be replaced.
        track: wraps the iteration over layers, for progress.

    Returns:
        The report. Its ``output`` is None where no adapter is written: in a dry run, where no
        change is above its noise, and where ``refuse`` returns a reason.

    Raises:
        UsageError: a wrong option or path.
        CheckpointError: a file cannot be read, or the output differs from the adapter.
        LayerError: the two are not one network before and after training, a layer's values are not
            finite, or no adapter is within ``max_drop``.
        EvaluationError: a network cannot be built, fed or scored.
    """
    pair = Pair.open(base, tuned, key)
    ranks = Goal(keep, Budget.of(budget), max_drop)
    goal = AdapterGoal(ranks, max_rank, edge, tuple(whole))
    target = AdapterOutput.of(
        pair, base, output, word="adapter", style=style, prefix=prefix, force=force
    )
    if not dry_run:
        target.check(pair)
    settings = evaluation or Evaluation(), calibration or Calibration()
    adapted = adapt(pair, goal, selection, *settings, saves=target.saves, track=track)
    report = report_of("extract", pair, goal, adapted, target.style)
    if dry_run or not report.pruned or refuse(report):
        return report
    return target.write(report, adapted)
