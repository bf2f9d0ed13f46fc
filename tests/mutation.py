"""The table of docs/mutation.md: ``python -m tests.mutation --write``.

It lets mutmut change the code in small ways, one at a time, and counts the changes that some test
notices.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
from collections import Counter
from math import sqrt

from tests.conftest import ROOT
from tests.page import put_table

PAGE = ROOT / "docs/mutation.md"
#: What is told apart in the table -> how the names of its mutants begin.
UNITS = {
    "`law/`": "rmtcli.law.",
    "`edges/`": "rmtcli.edges.",
    "`keep/`": "rmtcli.keep.",
    "`planning/allocate.py`": "rmtcli.planning.allocate.",
    "`spectra/factors.py`": "rmtcli.spectra.factors.",
    "`files/atomic.py`": "rmtcli.files.atomic.",
}
#: Share of the mutants of each that the tests have to notice.
ENOUGH = 0.85
#: What mutmut says of a mutant that no test has met yet.
UNTRIED = "not checked"


def mutmut(*arguments: str) -> None:
    """Run mutmut; what it tells goes to standard error."""
    subprocess.run(["mutmut", "run", *arguments], cwd=ROOT, check=True, stdout=sys.stderr)


def statuses() -> dict[str, str]:
    """What became of each mutant, by its name."""
    command = ["mutmut", "results", "--all", "true"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return dict(re.findall(r"^\s+(\S+): (.+)$", done.stdout, re.M))


def sample(names: list[str], count: int, seed: int) -> list[str]:
    """So many of each unit, or all where there are not twice as many."""
    rng, found = random.Random(seed), []
    for prefix in UNITS.values():
        unit = sorted(name for name in names if name.startswith(prefix))
        found += unit if len(unit) < 2 * count else rng.sample(unit, count)
    return found


def interval(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share that was counted (Wilson, 1927)."""
    z = 1.96
    centre, width = share + z**2 / (2 * count), z * sqrt(share * (1 - share) + z**2 / (4 * count))
    scale = 1 + z**2 / count
    return (centre - width / sqrt(count)) / scale, (centre + width / sqrt(count)) / scale


def line(unit: str, total: int, found: Counter[str]) -> str:
    """A row of the table."""
    tried, noticed = found.total(), found["killed"] + found["timeout"]
    share = noticed / tried
    spread = ""
    if tried < total:
        low, high = interval(share, tried)
        spread = f" ({low:.0%} to {high:.0%})"
    counts = (total, tried, found["killed"], found["timeout"], tried - noticed)
    return f"| {unit} | {' | '.join(f'{n:,}' for n in counts)} | {share:.1%}{spread} |"


def main() -> int:
    """Print the table; the exit code is 1 where tests notice too few."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--sample", type=int, help="mutants of each large part that are tried")
    which.add_argument("--tried", action="store_true", help="try none, count those of other runs")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--processes", type=int, default=1, help="mutants tried at once")
    parser.add_argument("--write", action="store_true", help="put the table on the page")
    given = parser.parse_args()
    children = "--max-children", str(given.processes)
    chosen = None
    if given.sample is not None:
        mutmut(*children, "rmtcli.keep.auto.*")  # a few, so that all are made
        chosen = sample(list(statuses()), given.sample, given.seed)
        mutmut(*children, *chosen)
    elif not given.tried:
        mutmut(*children)
    found = statuses()
    if chosen is None:
        chosen = [name for name, status in found.items() if status != UNTRIED]
    rows, enough = [], True
    for unit, prefix in UNITS.items():
        counts = Counter(found[name] for name in chosen if name.startswith(prefix))
        rows.append(line(unit, sum(name.startswith(prefix) for name in found), counts))
        enough &= counts["killed"] + counts["timeout"] >= ENOUGH * counts.total()
    head = "| | mutants | tried | killed | timed out | survived | noticed |\n"
    table = "\n".join([head + "|---|---:|---:|---:|---:|---:|---:|", *rows])
    sys.stdout.write(table + "\n")
    if given.write:
        put_table(PAGE, table)
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
