"""The file formats of a report: one module per format, and the table that lists them.

``--report`` reads its endings, its checks and its rendering from :data:`RENDERERS`. A new format is
a module with a :class:`Renderer` and a line here.
"""

from __future__ import annotations

from rmtcli.report.renderers.base import Context, Renderer
from rmtcli.report.renderers.html import HTML
from rmtcli.report.renderers.json import JSON
from rmtcli.report.renderers.junit import JUNIT
from rmtcli.report.renderers.markdown import MARKDOWN

__all__ = ["RENDERERS", "Context", "Renderer"]

#: File ending -> format.
RENDERERS = {renderer.ending: renderer for renderer in (MARKDOWN, JSON, HTML, JUNIT)}
