"""A report as one HTML page that works offline, or as a part of a notebook.

``pages.py`` makes a page's content (``content.py``) of a report, from tiles, a map, a table and
one panel per layer; ``render.py`` puts it into a template, together with ``style.css`` and
``table.js``. ``spectrum.py`` and ``curve.py`` draw SVG in the page's own fonts and colours. All of
them are imported when a page is asked for.
"""

from __future__ import annotations

from rmtcli.report.base import Report
from rmtcli.report.difference import Difference
from rmtcli.report.renderers.base import Context, Renderer

__all__ = ["HTML", "difference_to_html", "to_fragment", "to_html"]


def to_html(report: Report, context: Context) -> str:
    """One page that works offline, with figures as inline SVG; equal reports give equal bytes."""
    from rmtcli.report.renderers.html import render

    return render.to_html(report, context)


def difference_to_html(difference: Difference, context: Context) -> str:
    """The same page, of the difference between two checkpoints."""
    from rmtcli.report.renderers.html import render

    return render.difference_to_html(difference, context)


def to_fragment(result: Report | Difference) -> str:
    """The first screen and the table as a part of another page, such as a notebook."""
    from rmtcli.report.renderers.html import render

    return render.to_fragment(result)


HTML = Renderer("HTML", ".html", to_html, difference_to_html)
