"""A report as JSON, in the form that ``schema.json`` states."""

from __future__ import annotations

from rmtcli.report.base import Report
from rmtcli.report.difference import Difference
from rmtcli.report.renderers.base import Context, Renderer


def to_json(report: Report, context: Context) -> str:
    """The report as indented JSON text."""
    return report.to_json(context.command)


def difference_to_json(difference: Difference, context: Context) -> str:
    """A difference as indented JSON text."""
    return difference.to_json(context.command)


JSON = Renderer("JSON", ".json", to_json, difference_to_json)
