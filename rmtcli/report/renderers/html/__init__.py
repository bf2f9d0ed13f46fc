"""A report as one HTML page that works offline, or as a part of a notebook.

``pages.py`` makes a page's content (``content.py``) of a report, from tiles, a map, a table and
one panel per layer; ``render.py`` puts it into a template, together with ``style.css`` and
``table.js``. ``spectrum.py`` and ``curve.py`` draw SVG in the page's own fonts and colours.
"""

from __future__ import annotations

from rmtcli.report.renderers.html.render import HTML, difference_to_html, to_fragment, to_html

__all__ = ["HTML", "difference_to_html", "to_fragment", "to_html"]
