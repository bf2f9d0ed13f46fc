"""``rmtcli schema``."""

from __future__ import annotations


def command() -> None:
    """Print the JSON Schema of reports (--json, and --report with .json).

    Its version is the reports' schema_version; it rises when a field changes its meaning or goes.
    """
    from importlib.resources import files

    print(files("rmtcli.report").joinpath("schema.json").read_text("utf-8").rstrip("\n"))
