"""``rmtcli prune``."""

from __future__ import annotations

from typing import Annotated, Optional

from rmtcli.cli import options
from rmtcli.cli.progress import progress
from rmtcli.cli.reporter import Reporter
from rmtcli.errors import LayerError

EXAMPLES = """\
rmtcli prune model.pt --budget 20% --data samples.npz
rmtcli prune model.pt --max-drop 0.5 --data samples.npz
rmtcli prune MODEL_DIR --budget 70% --calib sentences.txt -o small"""


def command(
    *,
    file: options.Checkpoint,
    output: Annotated[
        Optional[options.PathOrURL],
        options.output_option(
            "FILE|DIR",
            "File to write, in the format of its ending; for a directory, the directory to "
            "write. [default: the input's name with '.pruned' added]",
        ),
    ] = None,
    key: options.Key = None,
    keep: options.Keep = "auto",
    edge: options.Edge = "select",
    layout: options.Layout = "factored",
    bits: options.Bits = None,
    vocab: options.Vocab = None,
    selection: options.SelectionOptions,
    goal: options.GoalOptions,
    evaluation: options.EvaluationOptions,
    batch: options.Batch = None,
    calibration: options.CalibrationOptions,
    plan: options.PlanOptions,
    onnx: options.Onnx = False,
    cache: options.Cache = None,
    executor: options.Executor = None,
    dry_run: options.DryRun = False,
    outputs: options.OutputOptions,
) -> None:
    """Write a smaller checkpoint.

    With --data or --eval, the report also compares the pruned network with the dense one. The input
    is never changed.
    """
    from rmtcli import prune

    read = file, evaluation.data, calibration.data, calibration.stats, plan.apply, vocab
    reporter = Reporter.open(outputs, *read, output, files=[(plan.write, [".json"])])
    report = prune(
        file,
        output,
        key=key,
        keep=keep,
        budget=goal.build_budget(),
        max_drop=goal.max_drop,
        rank_multiple=goal.rank_multiple,
        share_inputs=goal.share_inputs,
        per_block=goal.per_block,
        plan=plan.apply,
        edge=edge,
        layout=layout,
        bits=bits,
        vocab=vocab,
        selection=selection.build(),
        evaluation=evaluation.build(),
        calibration=calibration.build(),
        batches=batch or (),
        dry_run=dry_run,
        refuse=reporter.refuse,
        force=outputs.force,
        verify=not outputs.no_verify,
        onnx=onnx,
        cache=cache,
        executor=executor,
        track=progress,
    )
    plan.save(report.plan)
    reporter.show(report)
    if not report.changes and (report.guard is not None or not dry_run):
        limit = f"nothing can be removed within --max-drop {goal.max_drop}"
        rule = f"no layer can be pruned by {plan.apply or f'--keep {keep}'}"
        raise LayerError(f"{file}: {limit if report.guard else rule}: no checkpoint written")
