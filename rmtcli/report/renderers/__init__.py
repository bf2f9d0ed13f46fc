"""The file formats of a report: one module per format, and the table that lists them.

``--report`` reads its endings, its checks and its rendering from :data:`RENDERERS`. A new format is
a module with a :class:`Renderer` and a line here.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from rmtcli.files import write_text
from rmtcli.report.base import Report
from rmtcli.report.difference import Difference
from rmtcli.report.renderers.base import Context, Renderer
from rmtcli.report.renderers.html import HTML
from rmtcli.report.renderers.json import JSON
from rmtcli.report.renderers.junit import JUNIT
from rmtcli.report.renderers.markdown import MARKDOWN

__all__ = ["RENDERERS", "Context", "Renderer", "today", "write_report"]

#: File ending -> format.
RENDERERS = {renderer.ending: renderer for renderer in (MARKDOWN, JSON, HTML, JUNIT)}


def write_report(result: Report | Difference, path: Path, context: Context) -> None:
    """Write a report or a difference in the format of the file's ending, which was checked."""
    renderer = RENDERERS[path.suffix]
    if isinstance(result, Report):
        text = renderer.render(result, context)
    else:
        text = renderer.compare(result, context)
    write_text(path, text.rstrip("\n") + "\n")


def today() -> str:
    """The date, as a page gives it; that of ``SOURCE_DATE_EPOCH`` where it is set.

    https://reproducible-builds.org/specs/source-date-epoch/
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    now = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdigit() else datetime.now()
    return now.date().isoformat()
