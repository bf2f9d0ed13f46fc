"""Tables on pages of the documentation that a command writes."""

from __future__ import annotations

import re
from pathlib import Path

_BLOCK = re.compile(r"(<!-- table -->\n).*?(<!-- end of table -->)", re.S)


def put_table(page: Path, table: str) -> None:
    """Put a table in the place that a page keeps for it."""
    text = page.read_text(encoding="utf-8")
    page.write_text(_BLOCK.sub(rf"\1{table}\n\2", text), encoding="utf-8")
