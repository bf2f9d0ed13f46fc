"""The section of a model card that describes how rmtcli changed the model."""

from __future__ import annotations

from dataclasses import replace

from rmtcli.checkpoint import Checkpoint
from rmtcli.files import as_path
from rmtcli.report.base import Report
from rmtcli.report.renderers import Context
from rmtcli.report.renderers.markdown import to_markdown

_START, _END = "<!-- rmtcli: start -->", "<!-- rmtcli: end -->"

_HOW = """\
Linear layers of this model were split into two thin layers, or have widths of their own. Load it
with `import rmtcli.integrations.transformers`, then `from_pretrained` as usual; or without rmtcli,
with `trust_remote_code=True`. These layers load in no other way: `rmtcli verify` checks that all
weights are loaded."""


def read_card(checkpoint: Checkpoint) -> str:
    """The model card of a directory; empty if it has none."""
    path = checkpoint.path / "README.md"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def with_section(card: str, report: Report, *, loaded: bool) -> str:
    """A model card with the report as its last section; the rest stays unchanged.

    Args:
        card: the old card, perhaps empty.
        report: the report. Directories of this machine are left out of it.
        loaded: whether loading takes more than before.
    """
    source = replace(report.source, path=as_path(report.source.path).absolute().name)
    text = to_markdown(replace(report, source=source, output=None), Context())
    title, _, rest = text.partition("\n")
    body = f"## Compressed with rmtcli\n\n{_HOW}\n" if loaded else "## Compressed with rmtcli\n"
    section = f"{_START}\n{body}\n### {title.lstrip('# ')}\n{rest}{_END}\n"
    before = without_section(card).rstrip("\n")
    return f"{before}\n\n{section}" if before else section


def without_section(card: str) -> str:
    """A model card without the sections that rmtcli wrote into it."""
    parts, position = [], 0
    while (start := card.find(_START, position)) >= 0 and (end := card.find(_END, start)) >= 0:
        parts.append(card[position:start].rstrip("\n"))
        position = end + len(_END)
        position += card.startswith("\n", position)
    return "\n".join([*parts, card[position:]])
