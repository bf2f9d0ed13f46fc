from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rmtcli as package
import rmtcli.cli.progress as progress
from rmtcli.computing.steps import tracked
from rmtcli.errors import UsageError
from rmtcli.layers import Layer, Skipped, SkipReason
from rmtcli.planning import Budget
from tests.conftest import DIGITS, SAMPLES, Run

DEEP = str(SAMPLES / "mnist_deep.pt")


def on_terminal(*arguments: str, columns: int = 100, **environment: str) -> str:
    """Everything that a command sends to a terminal of this width, with escape sequences."""
    pty = pytest.importorskip("pty")
    termios = pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, columns))
    kept = {key: text for key, text in os.environ.items() if key not in ("NO_COLOR", "COLUMNS")}
    command = [sys.executable, "-B", "-m", "rmtcli", *arguments]
    process = subprocess.Popen(
        command, stdout=theirs, stderr=theirs, env=kept | {"TERM": "xterm"} | environment
    )
    os.close(theirs)
    parts = []
    try:
        while part := os.read(ours, 65536):
            parts.append(part)
    except OSError:  # raised on Linux when the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    return b"".join(parts).decode()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.fixture(scope="module")
def sent() -> str:
    """An analysis on a terminal of 100 columns."""
    return on_terminal("analyze", DEEP)


def test_a_terminal_shows_the_current_layer_and_finally_only_the_report(sent: str) -> None:
    assert "of 5" in plain(sent)
    assert "fc1.weight" in plain(sent)
    assert "weights/s" in plain(sent)
    # The screen finally shows what was sent after the line was erased for the last time.
    left = plain(sent.rpartition("\x1b[2K")[2])
    assert "weights/s" not in left
    assert left.lstrip().startswith("layer ")


@pytest.mark.parametrize("columns", [60, 80, 100, 160])
def test_no_line_of_a_report_is_wider_than_the_terminal(sent: str, columns: int) -> None:
    shown = sent if columns == 100 else on_terminal("analyze", DEEP, columns=columns)
    left = plain(shown.rpartition("\x1b[2K")[2])
    assert max(len(line.rstrip()) for line in left.splitlines()) <= columns
    assert ("┊" in left) == (columns >= 80)


def test_colours_appear_only_on_terminals_that_allow_them(sent: str, rmtcli: Run) -> None:
    colours = re.compile(r"\x1b\[[0-9;]*3[0-7][0-9;]*m")
    assert colours.search(sent)
    assert not colours.search(on_terminal("analyze", DEEP, NO_COLOR="1"))
    piped = rmtcli("analyze", DEEP)
    assert "\x1b" not in piped.stdout + piped.stderr


def test_quiet_prints_only_json_and_errors(rmtcli: Run) -> None:
    done = rmtcli("analyze", DEEP, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert rmtcli("analyze", DEEP, "-q", "--json").stdout.startswith("{")
    failed = rmtcli("analyze", DEEP, "--quiet", "--fail-if", "layers.count > 1")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith(f"rmtcli: error: {DEEP}: fails: ")


def test_verbose_logs_every_step_to_stderr(tmp_path: Path, rmtcli: Run) -> None:
    data, written = DIGITS / "digits.npz", tmp_path / "small.pt"
    words = ("prune", DIGITS / "digits.pt", "-o", written, "--data", data, "--budget", "20%")
    arguments = (*words, "--heal", "1")
    done = rmtcli(*arguments, "--verbose")
    steps = [line.split(" ", 1) for line in done.stderr.splitlines()]
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d", time) for time, _ in steps)
    told = [text for _, text in steps]
    assert told[:2] == [
        "scoring on 4000 samples",  # the dense network, before anything is calibrated
        f"calibrating on 2048 samples of {data}",
    ]
    assert sum(" above the edge; " in text for text in told) == 5
    assert "healing on 1843 samples: 1 pass" in told
    assert told[-2:] == [f"writing {written}", f"reading {written} back"]
    brief = rmtcli(*arguments, "--force").stdout.splitlines()
    # The result is the same, with some lines more.
    assert [line for line in done.stdout.splitlines() if line in brief] == brief
    assert any(line.startswith("verified") for line in done.stdout.splitlines())


def test_quiet_and_verbose_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        progress.listen(quiet=True, verbose=True)


def test_the_library_configures_no_logging(capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "import logging, rmtcli\n"
        "rmtcli.analyze('sample_models/planted.safetensors')\n"
        "assert not logging.getLogger().handlers\n"
        "assert not logging.getLogger('rmtcli').handlers\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert capfd.readouterr() == ("", "")


def test_names_in_logged_steps_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    progress.listen(quiet=False, verbose=True)
    logging.getLogger("rmtcli.pipeline.fits").info("%s", "\x1b[31mred\nnext\u202eturned")
    line = capsys.readouterr().err
    assert "\x1b" not in line
    assert "\u202e" not in line
    assert line.count("\n") == 1
    progress.listen(quiet=False, verbose=False)


def test_progress_yields_every_item_in_order() -> None:
    skipped = Skipped("e", SkipReason.EMBEDDING)
    items = [Layer("[bold]a", (3, 2), "F32", lambda: None), skipped]  # type: ignore[arg-type,return-value]
    assert list(progress.progress(items)) == items
    line = progress._StatusLine()
    seen = []
    for item in line.follow(items):
        assert line.bar is not None
        seen.append((item, line.bar.tasks[0].completed, line.bar.tasks[0].total))
    assert seen == [(items[0], 0, 12), (skipped, 12, 12)]
    assert line.bar is None


def test_the_status_line_follows_batches(caplog: pytest.LogCaptureFixture) -> None:
    line = progress._StatusLine()
    logger = logging.getLogger("rmtcli.computing.steps")
    caplog.set_level(logging.DEBUG, "rmtcli")
    logger.addHandler(line)
    seen = []
    try:
        for _ in range(2):
            for start in tracked(range(0, 300, 100), "calibrating"):
                assert line.bar is not None
                task = line.bar.tasks[0]
                seen.append((start, task.description, task.fields["at"], task.completed))
            assert task.total == 3
        logging.getLogger("rmtcli.computing.steps").info("scoring on 3 samples")
        task = line.bar.tasks[0]
        assert (task.description, task.total) == ("scoring on 3 samples", None)
    finally:
        logger.removeHandler(line)
        line.close()
    expected = [
        (0, "calibrating", "1 of 3", 0),
        (100, "calibrating", "2 of 3", 1),
        (200, "calibrating", "3 of 3", 2),
    ]
    assert seen == 2 * expected


@pytest.mark.parametrize(("seconds", "count"), [(1.0, 9), (0.1, 1), (0.01, 0)])
def test_a_long_loop_logs_each_tenth_at_most(
    seconds: float,
    count: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The level INFO is what --verbose shows; the clock advances by so many seconds per batch."""
    now = [0.0]
    monkeypatch.setattr("rmtcli.computing.steps.time.monotonic", lambda: now[0])
    caplog.set_level(logging.DEBUG, "rmtcli")
    for _ in tracked(range(100), "scoring"):
        now[0] += seconds
    shown = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    assert len(shown) == count
    assert len(caplog.records) == 100
    if count == 9:
        assert shown[0] == "scoring: 10 of 100"


def test_a_network_that_runs_tells_its_batches(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "rmtcli.computing.steps")
    package.prune(
        DIGITS / "digits.pt",
        budget=Budget("10%"),
        evaluation=package.Evaluation(data=DIGITS / "digits.npz"),
        calibration=package.Calibration(sequential=True, heal=1),
        dry_run=True,
    )
    labels = {getattr(record, "label", "").partition(":")[0] for record in caplog.records}
    assert labels >= {"calibrating", "fitting again", "healing", "scoring"}
