"""What MkDocs does beside its own: pages from the top level, and links as a site shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

#: Page of the site -> the file that it is, which hosts of repositories look for at the top level.
TOP = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
_PAGES = {source: page for page, source in TOP.items()}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from the top level."""
    top = Path(config.config_file_path).parent
    for page, source in TOP.items():
        text = (top / source).read_text(encoding="utf-8")
        # Its links start at the top level; those of a page start in docs/.
        text = re.sub(r"\]\((?!\w+:|#)(docs/)?", lambda m: "](" if m[1] else "](../", text)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """Turn links to files that are no pages into their names, and names of pages into titles."""
    text = re.sub(r"\[([^\]]+)\]\(\.\./([^)#]+)(#[^)]*)?\)", _outside, markdown)
    titles = dict(_titles(config.nav))
    names = r"\[(?:docs/)?[\w-]+\.md\](?=\(([\w-]+\.md))"
    return re.sub(names, lambda link: f"[{titles.get(link[1], link[1])}]", text)


def _titles(nav: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Pages of the navigation, and their titles."""
    for title, target in (pair for entry in nav for pair in entry.items()):
        if isinstance(target, str):
            yield target, title
        else:
            yield from _titles(target)


def on_page_content(html: str, **_: Any) -> str:
    """Show Sphinx's roles, by which docstrings name other things, as the names alone."""
    return re.sub(r":\w+:<code>(?:~[\w.]*\.)?", "<code>", html)


def _outside(link: re.Match[str]) -> str:
    words, path, anchor = link.groups()
    if path in _PAGES:
        return f"[{words}]({_PAGES[path]}{anchor or ''})"
    return f"`{path}`" if words == path else f"{words} (`{path}`)"
