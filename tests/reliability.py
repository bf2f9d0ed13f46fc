"""The table of docs/reliability.md: ``python -m tests.reliability --write``.

It meets every attack, goes through every point at which commands write, and reads damaged files.
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
#: Damaged files that the table on the page is made with.
COUNT = 200_000


@dataclass
class Row:
    """One line of the table.

    Attributes:
        what: what was done.
        runs: how often.
        losses: inputs changed, outputs broken, files left where they should not be.
        escapes: something of a file run, or something written outside of the output.
        errors: ends that are not documented, memory beyond the limit.
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
    """Every hostile file."""
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
    """Every fault at every point of every command; and those among them that were kills."""
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
    """Damaged files."""
    tally = run(count, seed=2)
    row = Row("damaged files read", tally.files)
    for text in tally.findings:
        (row.escapes if "EscapeError" in text else row.errors).append(text)
    return row


def main() -> int:
    """Print the table; the exit code is 1 where it is not all zeros."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help="damaged files to read")
    parser.add_argument("--write", action="store_true", help="put the table on the page")
    given = parser.parse_args()
    rows = [attacks(), *faults(), fuzzed(given.count)]
    head = "| | runs | losses | escapes | undocumented errors |\n|---|---:|---:|---:|---:|"
    table = "\n".join([head, *(row.line for row in rows)])
    sys.stdout.write(table + "\n")
    found = [text for row in rows for text in (*row.losses, *row.escapes, *row.errors)]
    sys.stderr.write("".join(f"{text}\n" for text in found))
    if given.write:
        put_table(PAGE, table)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
