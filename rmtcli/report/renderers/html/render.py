"""Pages as HTML."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from platform import python_version
from typing import TYPE_CHECKING

from rmtcli.report.base import Report
from rmtcli.report.difference import Difference
from rmtcli.report.formatting import shown
from rmtcli.report.renderers.base import Context
from rmtcli.report.renderers.html.content import Page
from rmtcli.report.renderers.html.pages import page_of, page_of_difference
from rmtcli.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

#: Largest number of rows of a table in a notebook.
ROWS = 30


def to_html(report: Report, context: Context) -> str:
    """One page that works offline, with figures as inline SVG; equal reports give equal bytes."""
    return _page(page_of(report, context.command), context)


def difference_to_html(difference: Difference, context: Context) -> str:
    """The same page, of the difference between two checkpoints."""
    return _page(page_of_difference(difference), context)


def to_fragment(result: Report | Difference) -> str:
    """The first screen and the table as a part of another page, such as a notebook."""
    if isinstance(result, Report):
        page = page_of(result, panels=False)
    else:
        page = page_of_difference(result)
    template = _environment().get_template("fragment.html.j2")
    return template.render(page=page, style=_asset("style.css"), rows=ROWS)


def _page(page: Page, context: Context) -> str:
    script = _asset("table.js")
    digest = hashlib.sha256(script.encode()).digest()
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            page=page,
            context=context,
            versions=_versions(),
            style=_asset("style.css"),
            script=script,
            script_hash=base64.b64encode(digest).decode(),
        )
    )


@cache
def _versions() -> str:
    """What computed the figures."""
    packages = {"NumPy": "numpy", "SciPy": "scipy", "PyTorch": "torch"}
    others = ", ".join(f"{name} {version(package)}" for name, package in packages.items())
    return f"rmtcli {__version__}, with Python {python_version()}, {others}"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("rmtcli.report.renderers", "html")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["shown"] = shown
    # A line may break between the parts of a name, and within a part only if it is too long.
    environment.filters["parts"] = lambda name: Markup(".<wbr>").join(name.split("."))
    return environment


@cache
def _asset(name: str) -> str:
    from markupsafe import Markup

    return Markup(files("rmtcli.report.renderers.html").joinpath(name).read_text(encoding="utf-8"))
