"""The file formats of a report: one module per format, and the table that lists them.

``--report`` reads its endings, its checks and its rendering from :data:`RENDERERS`. A new format is
a module with a :class:`Renderer` and a line here.
"""

from __future__ import annotations

from pathlib import Path

from rmtcli.files import write_text
from rmtcli.report.base import Report
from rmtcli.report.renderers.base import Context, Renderer
from rmtcli.report.renderers.html import HTML
from rmtcli.report.renderers.json import JSON
from rmtcli.report.renderers.junit import JUNIT
from rmtcli.report.renderers.markdown import MARKDOWN

__all__ = ["RENDERERS", "Context", "Renderer", "write_report"]

#: File ending -> format.
RENDERERS = {renderer.ending: renderer for renderer in (MARKDOWN, JSON, HTML, JUNIT)}


def write_report(report: Report, path: Path, context: Context) -> None:
    """Write a report in the format of the file's ending, which the caller has checked."""
    write_text(path, RENDERERS[path.suffix].render(report, context).rstrip("\n") + "\n")
