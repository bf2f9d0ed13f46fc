"""``rmtcli info``."""

from __future__ import annotations

from typing import Annotated

from rmtcli.cli.options import Checkpoint, Only, OutputOptions


def command(*, file: Checkpoint, outputs: Annotated[OutputOptions, Only("json")]) -> None:
    """Print what is in a checkpoint, and where it comes from.

    Format, tensors, sizes and hash; and if rmtcli wrote it, the source's name and hash, and what
    was done to which layer.
    """
    from rmtcli import info

    found = info(file)
    if outputs.json:
        print(found.to_json())
        return
    from rmtcli.report.rows import shown

    width = max(len(label) for label, _ in found.lines)
    for label, text in found.lines:
        print(f"{label:<{width}}  {shown(text)}")
