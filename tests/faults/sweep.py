"""Commands that write, and faults at each point where they do."""

from __future__ import annotations

import errno
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import rmtcli
from rmtcli.checkpoint import open_checkpoint
from tests.conftest import model_directory, tree
from tests.sandbox import Outcome, Sandbox

#: Title of a command -> its words, and its output. :func:`prepare` writes the inputs.
COMMANDS: dict[str, tuple[str, str]] = {
    "safetensors": ("prune a.safetensors --keep rank:k=3 -o out.safetensors", "out.safetensors"),
    "torch": ("prune a.pt --keep rank:k=3 -o out.pt", "out.pt"),
    "legacy torch": ("prune old.pt --keep rank:k=3 -o out.pt", "out.pt"),
    "torch to safetensors": (
        "prune a.pt --keep rank:k=3 -o out.safetensors --plan p.json --report r.md",
        "out.safetensors",
    ),
    "safetensors to torch": ("prune a.safetensors --keep rank:k=3 -o out.pt", "out.pt"),
    "directory": ("prune m --keep rank:k=3 -o out", "out"),
    "densify": ("densify small.safetensors -o out.safetensors", "out.safetensors"),
    "densify a directory": ("densify small -o out", "out"),
    "simulate": ("simulate out.safetensors --shape 90x80 --rank 2", "out.safetensors"),
}
#: Commands that are also run to replace an older output.
REPLACING = ("safetensors", "torch", "directory")


def prepare(folder: Path) -> None:
    """Write inputs of every kind, large enough for several writes."""
    torch.manual_seed(0)
    state = {f"{i}.weight": torch.randn(90, 80) for i in range(3)}
    state |= {"3.weight": torch.randn(10, 90), "3.bias": torch.randn(10)}
    save_file(state, folder / "a.safetensors")
    torch.save(state, folder / "a.pt")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    model_directory(folder / "m", state, shards=2)
    (folder / "m/README.md").write_text("# a model\n")
    rmtcli.prune(folder / "a.safetensors", folder / "small.safetensors", keep="rank:k=2")
    rmtcli.prune(folder / "m", folder / "small", keep="rank:k=2")
    older = {name: value + 1 for name, value in state.items()}
    save_file(older, folder / "older.safetensors")
    torch.save(older, folder / "older.pt")
    model_directory(folder / "older", older)


@dataclass
class Record:
    """Results of some runs.

    Attributes:
        runs: how many were stopped.
        killed: how many of them by SIGKILL.
        losses: inputs that changed, outputs that are neither complete nor their older version.
        errors: undocumented exit codes and messages.
    """

    runs: int = 0
    killed: int = 0
    losses: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Case:
    """One command in a folder of its own, which is run many times.

    Args:
        name: title of the command in :data:`COMMANDS`.
        replacing: whether it replaces an older output.
        sandbox: the process that runs it.
        inputs: a folder that :func:`prepare` filled.
        folder: an empty working directory.
    """

    def __init__(
        self, name: str, replacing: bool, sandbox: Sandbox, inputs: Path, folder: Path
    ) -> None:
        self.title = f"{name}, replacing" if replacing else name
        words, output = COMMANDS[name]
        self.words = [*shlex.split(words), *(["--force"] if replacing else [])]
        self.sandbox, self.folder, self.output = sandbox, folder, folder / output
        self.older = folder / f"older{Path(output).suffix}" if replacing else None
        for item in inputs.iterdir():
            copy = folder / item.name
            shutil.copytree(item, copy) if item.is_dir() else shutil.copy(item, copy)
        self.inputs = tree(folder)
        self.clean()
        done = self.run(counted=True)
        assert done.code == 0, done.stderr
        self.points = done.points
        self.whole = self.values(self.output)
        self.before = None if self.older is None else self.values(self.older)
        self.clean()

    def run(self, **how: Any) -> Outcome:
        """Run the command in the sandbox, with the options of :meth:`Sandbox.run`."""
        return self.sandbox.run(*self.words, cwd=self.folder, **how)

    def values(self, path: Path) -> dict[str, bytes] | None:
        """The tensors, files and record of an output; None if it does not exist.

        Raises:
            Exception: the output exists and is not complete.
        """
        if not path.exists():
            return None
        output = open_checkpoint(path)
        values = {name: output.raw(name).data.tobytes() for name in output.infos}
        record = output.manifest.to_json() if output.manifest else ""
        files = {} if path.is_file() else dict.fromkeys(tree(path), b"")
        return values | files | {"": record.encode()}

    def clean(self) -> None:
        """Delete the outputs and remains of runs, and restore the older output if there is one."""
        for item in self.folder.iterdir():
            if str(item.name) not in {Path(file).parts[0] for file in self.inputs}:
                shutil.rmtree(item) if item.is_dir() else item.unlink()
        if self.older is not None:
            copy = shutil.copytree if self.older.is_dir() else shutil.copy
            copy(self.older, self.output)

    def check(self, what: str, record: Record, *, left: bool = False, rerun: bool = True) -> None:
        """Check that inputs are unchanged, and the output complete, its older version, or absent.

        Args:
            what: the fault, in words.
            record: where violations are noted.
            left: whether temporary files may be left behind.
            rerun: whether to run the command again, which has to succeed.
        """
        what = f"{self.title}, {what}"
        after = tree(self.folder)
        for file, data in self.inputs.items():
            if after.get(file) != data:
                record.losses.append(f"{what}: {file} changed")
        hidden = [item for item in self.folder.iterdir() if item.name.startswith(".rmtcli-")]
        if hidden and not left:
            record.losses.append(f"{what}: left {hidden[0].name}")
        try:
            values = self.values(self.output)
        except Exception as error:
            record.losses.append(f"{what}: the output is broken: {error}")
            values = self.whole
        if values is None and self.before is not None:
            # Between two renames the older directory has another name, and is whole.
            kept = [item for item in hidden if item.name.endswith(".old")]
            if len(kept) != 1 or self.values(kept[0]) != self.before:
                record.losses.append(f"{what}: the older output is lost")
        elif values not in (None, self.before, self.whole):
            record.losses.append(f"{what}: the output is neither old nor new")
        if rerun:
            force = ["--force"] if self.output.exists() and "--force" not in self.words else []
            again = self.sandbox.run(*self.words, *force, cwd=self.folder)
            if again.code or self.values(self.output) != self.whole:
                record.errors.append(f"{what}: a second run fails: {again.stderr}")
        self.clean()

    def said(self, done: Outcome, what: str, record: Record, code: int = 1) -> None:
        """Check that a run ended with its documented code and one line."""
        if done.code != code or not done.one_line:
            record.errors.append(f"{self.title}, {what}: code {done.code}: {done.stderr[-600:]}")


def traced(stderr: str) -> bool:
    """Whether an error ended in a traceback.

    Python prints one where an interrupt arrives in a destructor, and goes on; no program can catch
    it there.
    """
    ignored = r"Exception ignored in: .*\nTraceback .*\n(?:(?: .*)?\n)*\w.*\n"
    return "Traceback" in re.sub(ignored, "", stderr)


def each_point(case: Case, step: int = 1, first: int = 1) -> Iterator[tuple[int, str]]:
    """Yield number and name of the points at which a command writes."""
    for number in range(first, len(case.points) + 1, step):
        yield number, case.points[number - 1]


def killed(case: Case, record: Record, step: int = 1) -> None:
    """Send SIGKILL at each point; if the point is a write, in the middle of it."""
    for number, point in each_point(case, step):
        done = case.run(at=number, send=int(signal.SIGKILL))
        what = f"killed at {point} {number}"
        if done.code != -signal.SIGKILL:
            record.errors.append(f"{case.title}, {what}: code {done.code}: {done.stderr[-300:]}")
        record.runs += 1
        record.killed += 1
        case.check(what, record, left=True)


def interrupted(case: Case, record: Record, step: int = 1) -> None:
    """Send SIGINT (Ctrl-C) and SIGTERM at each point."""
    for number, point in each_point(case, step):
        for send, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            done = case.run(at=number, send=int(send))
            what = f"{send.name} at {point} {number}"
            # A run whose output has its name already may end as a success.
            if done.code not in (code, 0) or traced(done.stderr):
                record.errors.append(f"{case.title}, {what}: code {done.code}: {done.stderr}")
            record.runs += 1
            # An older directory is deleted after the new one has its name.
            case.check(what, record, left=point in ("unlink", "rmdir"), rerun=False)


def refused(case: Case, record: Record, step: int = 1) -> None:
    """Let the system refuse each act: a full disk, no permission, a broken disk."""
    for number, point in each_point(case, step):
        for fault in (errno.ENOSPC, errno.EACCES, errno.EIO):
            done = case.run(at=number, fail=fault)
            what = f"{errno.errorcode[fault]} at {point} {number}"
            record.runs += 1
            if done.code:
                case.said(done, what, record)
            # If the cleaning up itself fails, files are left behind.
            case.check(what, record, left=point in ("unlink", "rmdir"), rerun=False)


def changed(case: Case, record: Record, step: int = 1) -> None:
    """Append to an input at each point: the run reports it, and writes nothing."""
    sources = [word for word in case.words[1:2] if (case.folder / word).exists()]
    for source in sources:
        path = case.folder / source
        file = path if path.is_file() else next(iter(sorted(path.glob("model*.safetensors"))))
        data = file.read_bytes()
        placed = ("link", "rename", "replace")
        final = next(i for i, point in enumerate(case.points, 1) if point in placed)
        for number, point in each_point(case, step):
            if number >= final:
                break
            done = case.run(at=number, touch=str(file))
            file.write_bytes(data)
            record.runs += 1
            what = f"changed at {point} {number}"
            case.said(done, what, record)
            if case.older is None and case.output.exists():
                record.losses.append(f"{case.title}, {what}: an output of mixed inputs")
            case.check(what, record, rerun=False)


def without_memory(case: Case, record: Record, step: int = 1) -> None:
    """Give the run less and less memory, down to less than it needs."""
    for kib in range(24 * 16, 0, -16 * step):
        done = case.run(memory=kib * 2**10)
        record.runs += 1
        if done.code:
            case.said(done, f"with {kib} KiB", record)
        case.check(f"with {kib} KiB", record, rerun=False)


def without_room(case: Case, record: Record, step: int = 1) -> None:
    """Let no file grow beyond a size."""
    for size in (1000, 4096, 20_000, 60_000)[::step]:
        done = case.run(file_size=size)
        record.runs += 1
        if done.code:
            case.said(done, f"files of {size} bytes at most", record)
        case.check(f"files of {size} bytes at most", record, rerun=False)


def by_the_clock(case: Case, record: Record, step: int = 1) -> None:
    """Send SIGINT after so many hundredths of a second, at any point of the run."""
    for i in range(0, 30, step):
        done = case.run(after=0.005 + 0.01 * i, send=int(signal.SIGINT))
        record.runs += 1
        if done.code not in (130, 0) or traced(done.stderr):
            record.errors.append(f"{case.title}, Ctrl-C after {i}: {done.code}: {done.stderr}")
        case.check(f"Ctrl-C after {i}", record, rerun=False)


#: Name of a fault -> the function that causes it at each point of a case.
FAULTS: dict[str, Callable[[Case, Record, int], None]] = {
    "killed": killed,
    "interrupted": interrupted,
    "refused by the system": refused,
    "input changed": changed,
    "no memory": without_memory,
    "no room": without_room,
    "Ctrl-C by the clock": by_the_clock,
}


def sweep(
    record: Record, inputs: Path, scratch: Path, *, step: int = 1, faults: tuple[str, ...] = ()
) -> None:
    """Cause every fault in every command."""
    prepare(inputs)
    cases = [(name, False) for name in COMMANDS] + [(name, True) for name in REPLACING]
    with Sandbox() as sandbox:
        for name, replacing in cases:
            folder = scratch / f"{name.replace(' ', '-')}-{replacing}"
            folder.mkdir()
            case = Case(name, replacing, sandbox, inputs, folder)
            for fault in faults or FAULTS:
                FAULTS[fault](case, record, step)
