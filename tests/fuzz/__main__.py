"""``python -m tests.fuzz --count N``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.run import run, work


def main() -> int:
    """Run the fuzzer; the exit code is 1 if there are findings."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=3000, help="damaged files to read")
    parser.add_argument("--seed", type=int, default=0, help="seed of the damage")
    parser.add_argument("--start", type=int, default=0, help="number of the first file")
    parser.add_argument("--keep", type=Path, help="folder for files that led to findings")
    parser.add_argument("--only", default="", help="damage the seed files whose names match")
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        scratch, only = Path(given.work[0]), given.work[1]
        seed, start, stop = map(int, given.work[2:])
        work(scratch, only, seed, start, stop, scratch.parent / f"{start}.state")
        return 0
    tally = run(given.count, seed=given.seed, start=given.start, keep=given.keep, only=given.only)
    refused = ", ".join(f"{count} {name}" for name, count in sorted(tally.refused.items()))
    print(
        f"{tally.files} files in {tally.seconds:.0f} s: {tally.accepted} read, refused: {refused}"
    )
    print(f"memory at most {tally.peak} MiB, {len(tally.findings)} findings")
    for text, number in sorted(tally.findings.items()):
        print(f"  {number}: {text}")
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
