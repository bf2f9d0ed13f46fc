"""``rmtcli analyze``."""

from __future__ import annotations

from typing import Annotated

from rmtcli.cli.options import (
    Batch,
    Cache,
    Checkpoint,
    Edge,
    EvaluationOptions,
    Executor,
    Key,
    Only,
    OutputOptions,
    SelectionOptions,
)
from rmtcli.cli.progress import progress
from rmtcli.cli.reporter import Reporter

EXAMPLES = """\
rmtcli analyze model.safetensors
rmtcli analyze MODEL_DIR --report report.html
rmtcli analyze adapter"""


def command(
    *,
    file: Checkpoint,
    key: Key = None,
    edge: Edge = "select",
    selection: SelectionOptions,
    evaluation: Annotated[EvaluationOptions, Only("device")],
    batch: Batch = None,
    cache: Cache = None,
    executor: Executor = None,
    outputs: Annotated[
        OutputOptions, Only("json", "plot", "report", "fail_if", "force", "quiet", "verbose")
    ],
) -> None:
    """Fit the noise of every layer; write no checkpoint.

    Shows each fully connected layer's noise level and edge, how well the law fits, how many
    singular values are above the edge, and what 'prune --keep auto' would save. Of a LoRA
    adapter, it analyses the change that the adapter makes to each layer.
    """
    from rmtcli import analyze
    from rmtcli.pipeline.stages import refuse_not_finite

    reporter = Reporter.open(outputs, file)
    report = analyze(
        file,
        key=key,
        edge=edge,
        selection=selection.build(),
        cache=cache,
        executor=executor,
        batches=batch or (),
        device=evaluation.device,
        track=progress,
    )
    reporter.show(report)
    refuse_not_finite(file, report.skipped)
