"""Tables in the documentation that a command updates."""

from __future__ import annotations

import re
from pathlib import Path

_BLOCK = re.compile(r"(<!-- table -->\n).*?(<!-- end of table -->)", re.S)


def put_table(page: Path, table: str) -> None:
    """Replace the table between the two comments that mark it on a page."""
    text = page.read_text(encoding="utf-8")
    page.write_text(_BLOCK.sub(rf"\1{table}\n\2", text), encoding="utf-8")
