"""A matplotlib figure as an SVG element of a page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Parts that a page cannot use; a style in a figure would apply to the whole page.
_NOISE = re.compile(r"<(metadata|style)\b.*?</\1>|<!--.*?-->|<\?xml.*?\?>|<!DOCTYPE.*?>", re.S)
_REFERENCE = re.compile(r'(url\(#|href="#)([^")]+)')
_ID = re.compile(r' id="([^"]+)"')
_FONT = re.compile(r"font: ([\d.]+)px [^;\"]*")


def inline_svg(
    figure: Figure, name: str, *, title: str, text: str, colours: Mapping[str, str]
) -> Markup:
    """The figure as an SVG element with real text, in the page's font and colours.

    Args:
        figure: the figure. It is drawn without a background.
        name: prefix of every id, unique on the page.
        title: short name of the figure, for screen readers.
        text: description of the figure, for screen readers.
        colours: role -> the hexadecimal colour of its parts, which becomes the CSS variable of that
            name. Black becomes the colour of text.
    """
    from matplotlib import rc_context

    stream = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "rmtcli"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = _NOISE.sub("", stream.getvalue())
    used = {match[2] for match in _REFERENCE.finditer(svg)}
    svg = _ID.sub(lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = _REFERENCE.sub(rf"\1{name}-\2", svg)
    svg = _FONT.sub(r"font-size: \1px", svg)
    for role, colour in colours.items():
        svg = svg.replace(colour, f"var(--{role})")
    svg = svg.replace("#000000", "currentColor")
    size = re.search(r'viewBox="[^"]+"', svg)
    assert size is not None
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'{size[0]} role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(text)}</desc>'
    )
    body = re.sub(r"\n\s*", "\n", svg[svg.index(">", svg.index("<svg")) + 1 :])
    return Markup(head + body.strip())
