"""``rmtcli methods``."""

from __future__ import annotations

from rmtcli.cli.options import Json


def command(json: Json = False) -> None:
    """List edge estimators, keep rules, kinds of noise and tasks."""
    from rmtcli.report.methods import describe_methods, show_methods
    from rmtcli.report.terminal import stdout

    if json:
        from json import dumps

        print(dumps(describe_methods(), indent=2, ensure_ascii=False))
    else:
        show_methods(stdout())


command.__name__ = "methods"
