"""Mutation testing; ``python -m tests.mutation --write`` updates the table of docs/mutation.md.

mutmut changes the code in small ways, one at a time; the table counts the changes that make a test
fail.
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
#: Rows of the table -> the prefix of their mutants' names.
UNITS = {
    "`law/`": "rmtcli.law.",
    "`edges/`": "rmtcli.edges.",
    "`keep/`": "rmtcli.keep.",
    "`planning/allocate.py`": "rmtcli.planning.allocate.",
    "`spectra/factors.py`": "rmtcli.spectra.factors.",
    "`files/atomic.py`": "rmtcli.files.atomic.",
}
#: Share of the mutants in each row that the tests have to notice.
ENOUGH = 0.85
#: mutmut's status of a mutant that has not been tried.
UNTRIED = "not checked"


def mutmut(*arguments: str) -> None:
    """Run mutmut; its output goes to standard error."""
    subprocess.run(["mutmut", "run", *arguments], cwd=ROOT, check=True, stdout=sys.stderr)


def statuses() -> dict[str, str]:
    """The status of each mutant, by name."""
    command = ["mutmut", "results", "--all", "true"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return dict(re.findall(r"^\s+(\S+): (.+)$", done.stdout, re.M))


def sample(names: list[str], count: int, seed: int) -> list[str]:
    """Draw ``count`` mutants of each unit, or all of a unit that has fewer than twice as many."""
    rng, drawn = random.Random(seed), []
    for prefix in UNITS.values():
        unit = sorted(name for name in names if name.startswith(prefix))
        drawn += unit if len(unit) < 2 * count else rng.sample(unit, count)
    return drawn


def interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson, 1927)."""
    z = 1.96
    centre, width = share + z**2 / (2 * count), z * sqrt(share * (1 - share) + z**2 / (4 * count))
    scale = 1 + z**2 / count
    return (centre - width / sqrt(count)) / scale, (centre + width / sqrt(count)) / scale


def line(unit: str, total: int, statuses: Counter[str]) -> str:
    """One row of the table."""
    tried, noticed = statuses.total(), statuses["killed"] + statuses["timeout"]
    share = noticed / tried
    spread = ""
    if tried < total:
        low, high = interval(share, tried)
        spread = f" ({low:.0%} to {high:.0%})"
    counts = (total, tried, statuses["killed"], statuses["timeout"], tried - noticed)
    return f"| {unit} | {' | '.join(f'{n:,}' for n in counts)} | {share:.1%}{spread} |"


def main() -> int:
    """Print the table; the exit code is 1 if the tests notice too few mutants of a unit."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--sample", type=int, help="mutants of each large part that are tried")
    which.add_argument(
        "--tried", action="store_true", help="try none; count the results of earlier runs"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--processes", type=int, default=1, help="mutants tried at once")
    parser.add_argument("--write", action="store_true", help="update the table on the page")
    given = parser.parse_args()
    children = "--max-children", str(given.processes)
    chosen = None
    if given.sample is not None:
        mutmut(*children, "rmtcli.keep.auto.*")  # a few, so that mutmut generates all of them
        chosen = sample(list(statuses()), given.sample, given.seed)
        mutmut(*children, *chosen)
    elif not given.tried:
        mutmut(*children)
    status_of = statuses()
    if chosen is None:
        chosen = [name for name, status in status_of.items() if status != UNTRIED]
    rows, enough = [], True
    for unit, prefix in UNITS.items():
        counts = Counter(status_of[name] for name in chosen if name.startswith(prefix))
        rows.append(line(unit, sum(name.startswith(prefix) for name in status_of), counts))
        enough &= counts["killed"] + counts["timeout"] >= ENOUGH * counts.total()
    head = "| | mutants | tried | killed | timed out | survived | noticed |\n"
    table = "\n".join([head + "|---|---:|---:|---:|---:|---:|---:|", *rows])
    sys.stdout.write(table + "\n")
    if given.write:
        put_table(PAGE, table)
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
