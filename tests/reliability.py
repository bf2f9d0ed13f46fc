"""Attacks, faults and damaged files; ``--write`` updates the table of docs/reliability.md.

``python -m tests.reliability`` runs every attack, injects faults at every point at which commands
write, and reads damaged files.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tests.attacks import ATTACKS
from tests.attacks.test_attacks import attacked
from tests.conftest import ROOT
from tests.faults.sweep import Record, sweep
from tests.fuzz.run import run
from tests.page import put_table
from tests.sandbox import Sandbox

PAGE = ROOT / "docs/reliability.md"
#: Number of damaged files for the table on the page.
COUNT = 200_000


@dataclass
class Row:
    """One line of the table.

    Attributes:
        what: the kind of test.
        runs: number of runs.
        losses: inputs changed, outputs damaged, files left behind.
        escapes: code of a file executed, or files written outside the output.
        errors: undocumented outcomes, or memory beyond the limit.
    """

    what: str
    runs: int
    losses: list[str] = field(default_factory=list)
    escapes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """The row in Markdown."""
        counts = (self.losses, self.escapes, self.errors)
        return f"| {self.what} | {self.runs:,} | {' | '.join(str(len(c)) for c in counts)} |"


def attacks() -> Row:
    """Run a command on every hostile file."""
    row = Row("hostile files met", len(ATTACKS))
    with Sandbox() as sandbox:
        for name in ATTACKS:
            with tempfile.TemporaryDirectory() as folder:
                for fault in attacked(name, sandbox, Path(folder)):
                    lost = fault.startswith(("changed", "left"))
                    away = fault.startswith(("escaped", "wrote", "copied"))
                    kind = row.losses if lost else row.escapes if away else row.errors
                    kind.append(f"{name}: {fault}")
    return row


def faults() -> tuple[Row, Row]:
    """Inject every fault at every point of every command; kills are counted separately."""
    killed, others = Record(), Record()
    for record, kinds in (
        (killed, ("killed",)),
        (others, ("interrupted", "refused by the system", "input changed")),
        (others, ("no memory", "no room", "Ctrl-C by the clock")),
    ):
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "inputs").mkdir()
            sweep(record, Path(name) / "inputs", Path(name), faults=kinds)
    words = "runs killed, at every point of writing", "other faults injected"
    return (
        Row(words[0], killed.runs, killed.losses, [], killed.errors),
        Row(words[1], others.runs, others.losses, [], others.errors),
    )


def fuzzed(count: int) -> Row:
    """Read damaged files."""
    tally = run(count, seed=2)
    row = Row("damaged files read", tally.files)
    for text in tally.findings:
        (row.escapes if "EscapeError" in text else row.errors).append(text)
    return row


def main() -> int:
    """Print the table; the exit code is 1 unless all counts of faults are zero."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help="number of damaged files")
    parser.add_argument("--write", action="store_true", help="update the table on the page")
    given = parser.parse_args()
    rows = [attacks(), *faults(), fuzzed(given.count)]
    head = "| | runs | losses | escapes | undocumented errors |\n|---|---:|---:|---:|---:|"
    table = "\n".join([head, *(row.line for row in rows)])
    sys.stdout.write(table + "\n")
    failures = [text for row in rows for text in (*row.losses, *row.escapes, *row.errors)]
    sys.stderr.write("".join(f"{text}\n" for text in failures))
    if given.write:
        put_table(PAGE, table)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
