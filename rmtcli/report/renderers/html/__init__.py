"""A report as one HTML page that works offline.

``page.py`` gathers the content, and ``opening.py`` that of the first screen; ``page.html.j2`` lays
it out, and ``style.css`` and ``sort.js`` are copied into it. ``svg.py`` makes a matplotlib figure
part of the page, in the page's fonts and colours.
"""

from __future__ import annotations

from rmtcli.report.renderers.html.page import HTML, to_html

__all__ = ["HTML", "to_html"]
