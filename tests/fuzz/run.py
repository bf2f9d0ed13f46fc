"""The fuzzer: a process that reads damaged files, and one that supervises it."""

from __future__ import annotations

import faulthandler
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from rmtcli.errors import RmtcliError
from tests.fuzz.mutations import damaged
from tests.fuzz.seeds import Seed, write_seeds

#: Bytes of memory that reading a file of some kilobytes may take, beyond the program's own.
MEMORY = 1 << 30
#: Seconds that reading a file may take.
PATIENCE = 20
#: Audit events by which a file's content would be run, or the network be reached.
_RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect")
_CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link")


@dataclass
class Tally:
    """Results of reading some files.

    Attributes:
        files: how many were read.
        accepted: how many were read without an error.
        refused: how many were refused, by type of error.
        findings: every other event, as a text per kind, with the number of its first file.
        peak: largest resident memory in MiB.
        seconds: time taken.
    """

    files: int = 0
    accepted: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    findings: dict[str, int] = field(default_factory=dict)
    peak: int = 0
    seconds: float = 0.0

    def refuse(self, kind: str, count: int = 1) -> None:
        """Count a refusal."""
        self.refused[kind] = self.refused.get(kind, 0) + count

    def add(self, other: dict[str, Any]) -> None:
        """Add the figures of another tally."""
        self.files += other["files"]
        self.accepted += other["accepted"]
        for kind, count in other["refused"].items():
            self.refuse(kind, count)
        for text, case in other["findings"].items():
            self.findings.setdefault(text, case)
        self.peak = max(self.peak, other["peak"])


class EscapeError(BaseException):
    """A file's content was run, took too long, or wrote outside of the scratch folder."""


def case(seeds: list[Seed], contents: list[bytes], seed: int, number: int) -> tuple[Seed, bytes]:
    """The damaged file with a number; it depends on the seed and the number alone."""
    rng = Random(f"{seed}:{number}")
    which = number % len(seeds)
    return seeds[which], damaged(contents[which], contents, rng)


def _peak() -> int:
    """Largest resident memory in MiB; ru_maxrss would count the parent process as well."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) // 1024  # type: ignore[index]


def work(scratch: Path, only: str, seed: int, start: int, stop: int, state: Path) -> None:
    """Read the damaged files with some numbers; ``state`` has the results after each."""
    warnings.simplefilter("ignore")
    faulthandler.enable()
    seeds = [item for item in write_seeds(scratch) if re.search(only, item.name)]
    contents = [item.file.read_bytes() for item in seeds]
    for item in seeds:  # whole files are read, and modules that are imported late are imported now
        item.read()
    _watch(scratch.parent)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, _out_of_time)
    tally, known = Tally(), 0
    kept = state.parent / "found"
    kept.mkdir(exist_ok=True)
    with state.open("wb", buffering=0) as log:
        for number in range(start, stop):
            item, data = case(seeds, contents, seed, number)
            os.pwrite(log.fileno(), f"{number:12}".encode(), 0)
            item.file.write_bytes(data)
            (state.parent / "current").write_bytes(data)
            signal.alarm(PATIENCE)
            try:
                _read(item, number, tally)
            finally:
                signal.alarm(0)
                if len(tally.findings) > known:
                    shutil.copy(state.parent / "current", kept / f"{number}-{item.file.name}")
                    known += 1
                item.file.write_bytes(contents[number % len(seeds)])
            tally.files += 1
            if number % 200 == 199 or number == stop - 1:
                tally.peak = _peak()
                text = json.dumps(asdict(tally)).encode()
                os.pwrite(log.fileno(), b"\n" + text + b"\n", 12)
                os.ftruncate(log.fileno(), len(text) + 14)


def _read(item: Seed, number: int, tally: Tally) -> None:
    """Read one damaged file, and note the result."""
    try:
        item.read()
        tally.accepted += 1
    except MemoryError:
        tally.refuse("MemoryError")  # main makes one line of it
    except RmtcliError as error:
        tally.refuse(type(error).__name__)
        if "\n" in str(error) or not str(error):
            tally.findings.setdefault(f"{item.name}: not one line: {error!r}", number)
    except OSError as error:
        # main makes one line of the system's message and the file's name.
        tally.refuse("OSError")
        if error.filename is None:
            tally.findings.setdefault(f"{item.name}: names no file: {error!r}", number)
    except BaseException as error:  # any other error is a finding
        tally.findings.setdefault(f"{item.name}: {_described(error)}", number)


def _described(error: BaseException) -> str:
    """Type of an error and the line of rmtcli that raised it."""
    last = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in last if "/rmtcli/" in frame.filename]
    where = ours[-1] if ours else last[-1]
    message = f"{error} " if isinstance(error, EscapeError) else ""
    return f"{type(error).__name__} {message}at {Path(where.filename).name}:{where.lineno}"


def _out_of_time(*_: object) -> None:
    raise EscapeError(f"took longer than {PATIENCE} s")


def _watch(scratch: Path) -> None:
    """Fail if anything is run, or written outside of the scratch folder."""
    inside = str(scratch)

    def outside(event: str, path: str) -> None:
        if not path.startswith(inside):
            raise EscapeError(f"{event} {path}")

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in _RUNS:
            raise EscapeError(event)
        if event == "open":
            path, _, flags = args
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and isinstance(path, str):
                outside(event, path)
        elif event in _CHANGES and str(args[0]).startswith("/"):  # others are within a handle
            outside(event, str(args[0]))

    sys.addaudithook(hook)


def run(
    count: int, *, seed: int = 0, start: int = 0, keep: Path | None = None, only: str = ""
) -> Tally:
    """Read damaged files in a process of its own, which is started again if it dies.

    Args:
        count: number of files.
        seed: seed of the damage; each seed always gives the same files.
        start: number of the first file.
        keep: folder for copies of the files that led to findings.
        only: a pattern in the names of the seed files to damage; all by default.
    """
    tally, begin, stop = Tally(), time.monotonic(), start + count
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="rmtcli-fuzz-", dir=base))
    try:
        while start < stop:
            scratch = folder / f"{start}"
            scratch.mkdir()
            end = min(stop, start + 20_000)
            done = subprocess.run(
                [sys.executable, "-B", "-m", "tests.fuzz", "--work", str(scratch), only]
                + [str(number) for number in (seed, start, end)],
                env=os.environ | {"TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            number, part = _progress(folder / f"{start}.state", start)
            if part is not None:
                tally.add(part)
            if done.returncode == 0:
                start = end
            elif number < start:
                raise RuntimeError(done.stderr)
            else:  # a crash: files read since the last note are not counted
                tally.findings.setdefault(_crash(done), number)
                start = number + 1
                (folder / "found").mkdir(exist_ok=True)
                shutil.copy(folder / "current", folder / "found" / f"{number}-crash")
            shutil.rmtree(scratch, ignore_errors=True)
        if keep is not None and tally.findings:
            shutil.copytree(folder / "found", keep, dirs_exist_ok=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    tally.seconds = time.monotonic() - begin
    return tally


def _crash(done: subprocess.CompletedProcess[str]) -> str:
    """How the process ended, with the line of rmtcli where it did."""
    ours = [line.strip() for line in done.stderr.splitlines() if "rmtcli" in line]
    return f"process ended with {done.returncode}: {(ours or [done.stderr[-200:]])[0]}"


def _progress(state: Path, start: int) -> tuple[int, dict[str, Any] | None]:
    """Number of the last file that was begun, and the tally when it was last noted."""
    if not state.exists():
        return start - 1, None
    first, *rest = state.read_text().split("\n")
    return int(first or start - 1), json.loads(rest[0]) if rest and rest[0] else None
