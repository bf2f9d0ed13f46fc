"""``rmtcli merge``."""

from __future__ import annotations

from typing import Annotated, Optional

from rmtcli.cli.options import Checkpoint, Key, Only, OutputOptions, PathOrURL, output_option
from rmtcli.cli.options.adapters import AdapterArgument
from rmtcli.cli.reporter import Reporter

EXAMPLES = "rmtcli merge MODEL_DIR adapter -o merged"


def command(
    *,
    base: Checkpoint,
    adapter: AdapterArgument,
    output: Annotated[
        Optional[PathOrURL],
        output_option(
            "FILE|DIR",
            "File or directory to write. [default: the base's name with '.merged' added]",
        ),
    ] = None,
    key: Key = None,
    outputs: Annotated[OutputOptions, Only("json", "force", "no_verify", "quiet", "verbose")],
) -> None:
    """Write a network with a LoRA adapter merged into its weights.

    The weights are the same bits that peft's merge_and_unload gives, in the base's types.
    """
    from rmtcli import merge

    reporter = Reporter.open(outputs, base, adapter, output)
    verify = not outputs.no_verify
    reporter.show(merge(base, adapter, output, key=key, force=outputs.force, verify=verify))
