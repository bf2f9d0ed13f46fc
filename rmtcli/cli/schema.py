"""``rmtcli schema``."""

from __future__ import annotations

EXAMPLES = "rmtcli schema > report.schema.json"


def command() -> None:
    """Print the JSON Schema of reports.

    It describes the output of --json, and of --report with a .json file. Its version is the
    schema_version of the reports, which rises when a field changes its meaning or is removed.
    """
    from importlib.resources import files

    print(files("rmtcli.report").joinpath("schema.json").read_text("utf-8").rstrip("\n"))
