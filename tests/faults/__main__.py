"""``python -m tests.faults``: cause every fault at every point of every command."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.faults.sweep import FAULTS, Record, sweep


def main() -> int:
    """Run the sweep; the exit code is 1 if data were lost or an error was not reported."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--step", type=int, default=1, help="only every Nth point")
    parser.add_argument("--only", action="append", choices=FAULTS, help="a kind of fault")
    given = parser.parse_args()
    record = Record()
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "inputs").mkdir()
        sweep(record, Path(name) / "inputs", Path(name), step=given.step, faults=given.only or ())
    print(f"{record.runs} runs stopped, {record.killed} of them killed")
    for text in (*record.losses, *record.errors):
        print(f"  {text}")
    return 1 if record.losses or record.errors else 0


if __name__ == "__main__":
    sys.exit(main())
