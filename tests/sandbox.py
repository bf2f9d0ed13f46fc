"""Runs of the program under control: watched, limited, interrupted, killed.

A process that has imported everything forks for each run, so that a run takes less than a second.
The run calls ``main`` as the console script does.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

#: Audit events by which a file's content would be run, or the network be reached.
_RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect")
_CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.chmod")
#: Seconds after which a run is killed, unless it says how many.
PATIENCE = 30
#: What may be said of a run that nothing watches or limits.
UNDISTURBED = {"argv", "cwd", "env", "out", "patience"}
#: Exit code of a run with such an event, or with a change outside of its folder.
ESCAPED = 99


@dataclass(frozen=True)
class Outcome:
    """Result of a run.

    Attributes:
        code: exit code; negative for the signal that ended it.
        stdout: text on the standard output.
        stderr: text on the standard error.
        peak: largest resident memory in MiB, with that of the program itself.
        points: the points at which the run wrote, in order; empty if it was killed.
    """

    code: int
    stdout: str
    stderr: str
    peak: int
    points: tuple[str, ...]

    @property
    def one_line(self) -> bool:
        """Whether the error is one line in the form of rmtcli's errors."""
        return self.stderr.startswith("rmtcli: error: ") and self.stderr.count("\n") == 1


class Sandbox:
    """The process that forks for each run, as a context manager."""

    _out: str
    _requests: TextIO
    _answers: TextIO

    def __enter__(self) -> Sandbox:
        self._folder = tempfile.TemporaryDirectory(prefix="rmtcli-sandbox-")
        self._process = subprocess.Popen(
            [sys.executable, "-B", "-m", "tests.sandbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
            env=os.environ
            | {
                "OMP_NUM_THREADS": "1",
                "TORCHINDUCTOR_CACHE_DIR": self._folder.name,  # torch makes one elsewhere
            },
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._out = self._folder.name
        self._requests, self._answers = self._process.stdin, self._process.stdout
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        self._folder.cleanup()

    @contextlib.contextmanager
    def forked(self) -> Iterator[Sandbox]:
        """Another sandbox for runs at the same time: its process forks from this one's."""
        second = Sandbox()
        with tempfile.TemporaryDirectory(prefix="rmtcli-sandbox-") as second._out:
            requests, answers = pipes = [
                Path(second._out, name) for name in ("requests", "answers")
            ]
            for pipe in pipes:
                os.mkfifo(pipe)
            self._ask({"second": list(map(str, pipes))})
            with requests.open("w") as second._requests, answers.open() as second._answers:
                yield second

    def _ask(self, request: dict[str, Any]) -> None:
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()

    def start(self, *arguments: object, cwd: Path, **how: Any) -> None:
        """Start a run with the arguments of :meth:`run`; :meth:`end` waits for it."""
        words = list(map(str, arguments))
        self._ask(how | {"argv": words, "cwd": str(cwd), "out": self._out})

    def end(self) -> Outcome:
        """Wait for the run; its result."""
        return Outcome(**json.loads(self._answers.readline()))

    def run(self, *arguments: object, cwd: Path, **how: Any) -> Outcome:
        """Run the program.

        Args:
            arguments: the command line.
            cwd: the working directory; if ``watched``, writing elsewhere is an escape.
            how: ``env``, the whole environment; ``patience``, the seconds after which the run is
                killed; ``watched``; the limits ``memory`` (bytes beyond the program's own) and
                ``file_size``; ``user``, the number of a user to become; ``counted``, to count the
                points at which the run writes. At the point with the number ``at``: ``send``, a
                signal that it receives; ``fail``, the number of an error that the system returns;
                ``touch``, a file to which another process appends; ``call``, Python source to run.
                ``after``: seconds after which it receives ``send``, instead of a point.
        """
        self.start(*arguments, cwd=cwd, **how)
        return self.end()


class _Points:
    """Counts the points at which a run changes files, and interferes at one of them."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.names: list[str] = []

    def reach(self, name: str, half: Callable[[], object] = lambda: None) -> None:
        """Count a point, before the act or in the middle of it, and interfere if it is the one."""
        self.names.append(name)
        if len(self.names) != self.request.get("at"):
            return
        if "send" in self.request:
            half()
            os.kill(os.getpid(), self.request["send"])
        if "touch" in self.request:
            with self.open(self.request["touch"], "ab") as file:
                file.write(b"x")
        if "call" in self.request:
            exec(self.request["call"])
        if "fail" in self.request:
            number = self.request["fail"]
            raise OSError(number, os.strerror(number))

    def install(self) -> None:
        """Replace the system's functions by functions that count."""
        self.open = io.open
        points = self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                part = memoryview(data).cast("B")
                points.reach("write", lambda: super(Raw, self).write(part[: len(part) // 2]))
                return super().write(data)

        def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if isinstance(file, int) or not set(mode) & set("wxa"):
                return self.open(file, mode, *args, **kwargs)
            if str(file).startswith(("/dev/", "/proc/")):
                return self.open(file, mode, *args, **kwargs)
            self.reach("create new" if "x" in mode else "create")
            raw = Raw(file, mode.replace("b", "").replace("t", ""))
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            if "b" in mode:
                return buffered
            kwargs.pop("buffering", None)
            return io.TextIOWrapper(buffered, **kwargs)

        io.open = builtins.open = opened
        for name in ("fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir", "sendfile"):
            setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, act: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.reach(name)
            return act(*args, **kwargs)

        return counted


def _watch(inside: str) -> None:
    """End the process if anything is run, or changed outside of a folder."""

    def outside(event: str, path: object) -> None:
        if os.fspath(path).startswith("/") and not os.fspath(path).startswith(inside):  # type: ignore[call-overload]
            _escape(f"{event} {path}")

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in _RUNS:
            _escape(f"{event} {args}")
        elif event == "open":
            path, _, flags = args
            if isinstance(path, str) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                if flags & os.O_DIRECTORY or path == os.devnull:  # an unnamed file, or none
                    return
                outside(event, path)
        elif event in _CHANGES and isinstance(args[0], str):
            if event == "os.mkdir" and os.path.isdir(args[0]):  # noqa: PTH112
                return  # it exists already: nothing changes
            outside(event, args[0])

    sys.addaudithook(hook)


def _escape(event: str) -> None:
    """End the process because of an event that must not happen."""
    os.write(2, f"escaped: {event}\n".encode())
    os._exit(ESCAPED)


def _child(request: dict[str, Any], folder: Path) -> None:
    """Run the program in the forked process, which ends with it."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
    os.chdir(request["cwd"])
    if "env" in request:
        os.environ.clear()
        os.environ.update(request["env"])
    else:
        os.environ["TMPDIR"] = tempfile.tempdir = request["cwd"]
    sys.argv = ["rmtcli", *request["argv"]]
    _limit(request)
    report = os.open(folder / "points", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    if "user" in request:
        os.setgroups([])
        os.setgid(request["user"])
        os.setuid(request["user"])
    points = _Points(request)
    if request.get("counted") or "at" in request:
        points.install()
    if request.get("watched"):
        _watch(request["cwd"])
    code: Any = 1
    try:
        code = _call_main(request)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os.write(report, json.dumps(points.names).encode())
        if request.keys() <= {
            "argv",
            "cwd",
            "env",
            "out",
            "patience",
        }:  # nothing watches or limits the run
            _save_coverage()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code if isinstance(code, int) else 1)


def _save_coverage() -> None:
    """Write the measurement of a run under ``coverage run -m pytest``."""
    coverage = sys.modules.get("coverage")
    if coverage is not None and (measuring := coverage.Coverage.current()):
        measuring.save()


def _limit(request: dict[str, Any]) -> None:
    """Limit the memory and the size of files, if the request says so."""
    if "memory" in request:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + request["memory"], resource.RLIM_INFINITY))
    if "file_size" in request:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"],) * 2)


def _call_main(request: dict[str, Any]) -> Any:
    """Call the program, with a signal after some time if the request says so; its exit code."""
    from rmtcli.cli.main import main

    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if "after" in request:
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), request["send"]))
            signal.setitimer(signal.ITIMER_REAL, request["after"])
        main()
    except SystemExit as end:
        code = end.code or 0
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
            return code
        except KeyboardInterrupt:  # the program had ended
            return code
    return 0


def _warm_up() -> None:
    """Import everything that is imported late, the parser's parts too."""
    import torch
    import typer.testing
    from safetensors.torch import save_file

    import rmtcli
    import rmtcli.cli.main
    from rmtcli.layers import Selection
    from tests.conftest import model_directory

    state = {f"{i}.weight": torch.randn(9, 8) for i in range(2)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file(state, folder / "a.safetensors")
        torch.save(state, folder / "a.pt")
        model_directory(folder / "m", state)
        for file in ("a.safetensors", "a.pt", "m"):
            rmtcli.prune(folder / file, keep="rank:k=2", selection=Selection(min_side=0))
        words = ["prune", str(folder / "a.safetensors"), "--keep", "rank:k=2"]
        typer.testing.CliRunner().invoke(rmtcli.cli.main.app, [*words, "-o", str(folder / "b.pt")])


def _serve() -> None:
    """Fork for every request on stdin."""
    quiet = warnings.catch_warnings()
    quiet.__enter__()
    warnings.simplefilter("ignore")  # those of imports, and of a fork beside other threads
    import numpy.testing  # calls lscpu as it is imported, before numpy 2  # noqa: F401
    import torch

    import rmtcli.cli.main
    import rmtcli.evaluation.score
    import rmtcli.pipeline.info
    import rmtcli.report.renderers.html.render
    import rmtcli.report.terminal  # noqa: F401
    from rmtcli.checkpoint import safetensors  # noqa: F401
    from rmtcli.checkpoint.huggingface import write as directory  # noqa: F401
    from rmtcli.checkpoint.torch import exported, write  # noqa: F401
    from rmtcli.checkpoint.torch import open as opening  # noqa: F401

    torch.set_num_threads(1)
    with contextlib.suppress(ImportError):
        import matplotlib.figure  # noqa: F401
        import transformers  # noqa: F401
        from transformers.models.auto import configuration_auto  # noqa: F401
    _warm_up()
    for line in sys.stdin:
        request = json.loads(line)
        if "second" in request:
            _fork_second(*request["second"])
        else:
            _answer(request, quiet)


def _fork_second(requests: str, answers: str) -> None:
    """Fork a process that answers requests from one named pipe in another; return in both."""
    if os.fork():
        return
    for number, (pipe, flags) in enumerate(((requests, os.O_RDONLY), (answers, os.O_WRONLY))):
        opened = os.open(pipe, flags)
        os.dup2(opened, number)
        os.close(opened)


def _answer(request: dict[str, Any], quiet: warnings.catch_warnings[None]) -> None:
    """Fork for a request, and write the result of the run."""
    folder = Path(request["out"])
    (folder / "points").unlink(missing_ok=True)
    process = os.fork()
    if not process:
        quiet.__exit__()
        _child(request, folder)
    end = time.monotonic() + (patience := request.get("patience", PATIENCE))
    while not (ended := os.wait4(process, os.WNOHANG))[0]:
        time.sleep(0.002)
        if time.monotonic() > end:
            os.kill(process, signal.SIGKILL)
            end += patience
    _, status, usage = ended
    points = folder / "points"
    text = points.read_text() if points.exists() else ""
    answer = {
        "code": os.waitstatus_to_exitcode(status),
        "peak": usage.ru_maxrss // 1024,
        "points": json.loads(text or "[]"),
    }
    for name in ("stdout", "stderr"):
        answer[name] = (folder / name).read_text(errors="replace")
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


#: The number of the error of a full disk.
FULL = errno.ENOSPC

if __name__ == "__main__":
    _serve()
