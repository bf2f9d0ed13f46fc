"""Help texts: options by topic, and examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typer.core import TyperCommand

from rmtcli.cli.defaults import apply_defaults

#: Columns that help texts take at most; a narrower terminal gets narrower ones.
WIDTH = 110
#: Topic -> its options, in the order of the help; an option of no topic is under "Options".
TOPICS = {
    "How much": (
        *("--budget", "--budget-bytes", "--budget-macs", "--budget-latency", "--max-drop"),
        *(
            "--keep",
            "--edge",
            "--layout",
            "--bits",
            "--vocab",
            "--rank-multiple",
            "--share-inputs",
            "--apply",
        ),
        *("--per-block", "--size", "--max-rank", "--style", "--prefix"),
    ),
    "Data": ("--data", "--task", "--model", "--activation", "--eval", "--against"),
    "Calibration": (
        *(
            "--calib",
            "--sequential",
            "--heal",
            "--heal-minutes",
            "--clean",
            "--metric",
            "--stats",
            "--spill",
        ),
        "--calib-batch",
    ),
    "Which layers": (
        *("--include", "--exclude", "--min-side", "--conv", "--recurrent", "--embeddings"),
        *("--whole", "--key"),
    ),
    "Training": ("--epochs", "--lr", "--seed", "--distill", "--teacher"),
    "Output": (
        *("--output", "--plan", "--report", "--plot", "--json", "--fail-if", "--dry-run"),
        *("--onnx", "--force", "--no-verify", "--quiet", "--verbose"),
    ),
    "Speed": ("--batch", "--device", "--cache", "--executor"),
}


class Command(TyperCommand):
    """A command whose help has examples, and its options by topic.

    A command's epilog holds its examples, one shell command a line.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments, and settle which of a file's defaults count."""
        rest = super().parse_args(ctx, args)
        apply_defaults(self, ctx)
        return rest

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, the arguments, and the options of each topic."""
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")
        for topic, records in _by_topic(self, ctx).items():
            with formatter.section(topic):
                formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write nothing: the examples stand above the options."""


def _by_topic(command: TyperCommand, ctx: Any) -> Mapping[str, list[tuple[str, str]]]:
    """The help of each parameter, by topic, in the order of :data:`TOPICS`."""
    arguments, options = [], {}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is None:
            continue
        if parameter.param_type_name == "argument":
            # Newer versions of Typer also name the type of the value, which is the program's own.
            arguments.append((record[0].partition(" <")[0], record[1]))
        else:
            options[next(name for name in parameter.opts if name.startswith("--"))] = record
    topics = {"Arguments": arguments}
    for topic, names in TOPICS.items():
        topics[topic] = [options.pop(name) for name in names if name in options]
    topics["Options"] = list(options.values())
    return {topic: records for topic, records in topics.items() if records}
