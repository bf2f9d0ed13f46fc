"""``rmtcli methods``."""

from __future__ import annotations

from typing import Annotated

from rmtcli.cli.options import Only, OutputOptions

EXAMPLES = "rmtcli methods"


def command(*, outputs: Annotated[OutputOptions, Only("json")]) -> None:
    """List calibration inputs, edge estimators, keep rules, kinds of noise and tasks."""
    from rmtcli.report.methods import describe_methods, show_methods
    from rmtcli.report.terminal import stdout

    if outputs.json:
        from json import dumps

        print(dumps(describe_methods(), indent=2, ensure_ascii=False))
    else:
        show_methods(stdout())
