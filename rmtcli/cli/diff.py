"""``rmtcli diff``."""

from __future__ import annotations

from typing import Annotated

import typer

from rmtcli.cli.options import Edge, Key, Only, OutputOptions, PathOrURL, SelectionOptions, to_path
from rmtcli.cli.progress import progress
from rmtcli.cli.reporter import Reporter

EXAMPLES = """\
rmtcli diff model.pt finetuned.pt
rmtcli diff MODEL_DIR adapter
rmtcli diff adapter adapter.resized"""


def command(
    *,
    before: Annotated[
        PathOrURL,
        typer.Argument(
            parser=to_path, metavar="A", help="The first checkpoint.", show_default=False
        ),
    ],
    after: Annotated[
        PathOrURL,
        typer.Argument(
            parser=to_path, metavar="B", help="The second checkpoint.", show_default=False
        ),
    ],
    key: Key = None,
    edge: Edge = "select",
    selection: Annotated[SelectionOptions, Only("include", "exclude", "min_side")],
    outputs: Annotated[
        OutputOptions, Only("json", "report", "fail_if", "force", "quiet", "verbose")
    ],
) -> None:
    """Compare two checkpoints, layer by layer.

    Shows how the spectrum, rank, norms and edge of each layer differ, for example after training,
    fine-tuning or quantisation. Also shows the signal in the difference: how many of its directions
    are above the noise, and how many of these are new. Factored layers are compared
    by the product of their factors, and two adapters by their changes. If B is an adapter of the
    network A, it stands for A with the adapter merged.
    """
    from rmtcli import diff
    from rmtcli.report.difference import FIELDS

    reporter = Reporter.open(outputs, before, after, fields=FIELDS)
    difference = diff(
        before, after, key=key, edge=edge, selection=selection.build(), track=progress
    )
    reporter.show_difference(difference)
