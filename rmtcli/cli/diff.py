"""``rmtcli diff``."""

from __future__ import annotations

from typing import Annotated

import typer

from rmtcli.cli import options
from rmtcli.cli.output import conclude_difference, emit_found
from rmtcli.cli.progress import listen, progress


def command(
    before: Annotated[
        options.Place,
        typer.Argument(
            parser=options.to_place, metavar="A", help="A checkpoint.", show_default=False
        ),
    ],
    after: Annotated[
        options.Place,
        typer.Argument(
            parser=options.to_place, metavar="B", help="Another one.", show_default=False
        ),
    ],
    edge: options.Edge = "select",
    include: options.Include = None,
    exclude: options.Exclude = None,
    min_side: options.MinSide = 32,
    json: options.Json = False,
    fail_if: options.FailIf = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Compare two checkpoints: spectra, ranks, norms and edges of each layer.

    After a training run, a fine-tune, a quantisation. Factors are compared by their product.
    """
    from rmtcli import Selection, diff
    from rmtcli.report.conditions import Condition, reasons
    from rmtcli.report.difference import FIELDS
    from rmtcli.report.terminal import show_difference, stdout

    listen(quiet=quiet, verbose=verbose)
    conditions = [Condition.parse(text, FIELDS) for text in fail_if or ()]
    selection = Selection(include or (), exclude or (), min_side)
    found = diff(before, after, edge=edge, selection=selection, track=progress)
    emit_found(found, lambda it: show_difference(it, stdout()), as_json=json)
    conclude_difference(found, reasons(conditions, found.values))


command.__name__ = "diff"
