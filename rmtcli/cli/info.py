"""``rmtcli info``."""

from __future__ import annotations

from typing import Annotated

from rmtcli.cli.options import Checkpoint, Key, Only, OutputOptions

EXAMPLES = "rmtcli info small.pt"


def command(
    *, file: Checkpoint, key: Key = None, outputs: Annotated[OutputOptions, Only("json")]
) -> None:
    """Print the contents and the origin of a checkpoint.

    Shows format, tensors, sizes and hash; if rmtcli wrote it, also the source's name and hash, and
    how each layer was changed.
    """
    from rmtcli import info

    description = info(file, key=key)
    if outputs.json:
        print(description.to_json())
        return
    from rmtcli.report.formatting import shown

    width = max(len(label) for label, _ in description.lines)
    for label, text in description.lines:
        print(f"{label:<{width}}  {shown(text)}")
