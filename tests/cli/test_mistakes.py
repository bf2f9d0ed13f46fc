"""Mistakes that users make: each is told in one line, with its cure, and changes no file."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import rmtcli
from rmtcli import RmtcliError
from rmtcli.cli import main
from tests.conftest import ROOT, tree

TABLE = Path(__file__).with_name("mistakes.txt")
CODE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, 96), nn.Linear(96, 64), nn.Linear(64, 10)

    def forward(self, x):
        return self.fc3(self.fc2(self.fc1(x).relu()).relu())

class Wrong(Net):
    def forward(self, x):
        return x.nothing()

class Pair(Net):
    def forward(self, x):
        return super().forward(x), 1

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 10)

def needs(size): return Net()
def three(): return 3
number = 3
def raises(model): return {}["val"]
def words(model): return "good"
def none(model): pass
"""


def rows() -> dict[str, list[tuple[str, int, str]]]:
    """The table by section: command, exit code and message."""
    sections: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
    title = command = ""
    for line in TABLE.read_text().splitlines():
        if line.startswith("== "):
            title = line.strip("= ")
        elif line.startswith("$ "):
            command = line[2:]
        elif line and not line.startswith("#"):
            code, _, message = line.partition(": ")
            sections[title].append((command, int(code), message))
    return sections


ROWS = rows()


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """A network of three layers, the first of which has a signal."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random)

    return {
        "fc1.weight": normal(96, 64) + normal(96, 6) @ normal(6, 64),
        "fc1.bias": torch.zeros(96),
        "fc2.weight": normal(64, 96) / 10,
        "fc2.bias": torch.zeros(64),
        "fc3.weight": normal(10, 64) / 8,
        "fc3.bias": torch.zeros(10),
    }


def write_models(folder: Path) -> None:
    state = weights()
    for name in ("net", "there", "stats"):
        save_file(state, folder / f"{name}.safetensors")
    torch.save(state, folder / "net.pt")
    torch.save({"ema": state, "model": weights(1)}, folder / "two.pt")
    torch.save({"a": 1}, folder / "empty.pt")
    broken = state["fc1.weight"].clone()
    broken[0, 0] = torch.nan
    save_file(state | {"fc1.weight": broken}, folder / "nan.safetensors")
    save_file({"conv.weight": torch.ones(8, 4, 3, 3)}, folder / "conv.safetensors")
    save_file({"other.weight": torch.ones(40, 40)}, folder / "other.safetensors")
    for name in ("m", "badconfig", "weightless", "adapter"):
        (folder / name).mkdir()
    (folder / "m/config.json").write_text('{"model_type": "bert"}')
    (folder / "badconfig/config.json").write_text("{")
    (folder / "weightless/config.json").write_text("{}")
    (folder / "adapter/adapter_config.json").write_text("{}")
    for name in ("m", "badconfig"):
        save_file(state, folder / name / "model.safetensors")
    for ending in ("safetensors", "pt"):
        whole = (folder / f"net.{ending}").read_bytes()
        (folder / f"cut.{ending}").write_bytes(whole[:5000])


def write_data(folder: Path) -> None:
    random = np.random.default_rng(0)
    x, y = random.standard_normal((60, 64)).astype(np.float32), random.integers(0, 10, 60)
    arrays = {
        "data": {"inputs": x, "targets": y},
        "unlabelled": {"inputs": x},
        "narrow": {"inputs": x[:, :9], "targets": y},
        "short": {"inputs": x, "targets": y[:7]},
        "flat": {"inputs": x[:, 0], "targets": y},
        "nan": {"inputs": np.where(x > 2, np.nan, x), "targets": y},
        "many": {"inputs": x, "targets": y + 90},
        "xyz": {"X": x, "y": y, "z": np.ones(3)},
        "words": {"inputs": np.array([["a", "b"]])},
    }
    for name, held in arrays.items():
        np.savez(folder / f"{name}.npz", **held)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)


def write_others(folder: Path) -> None:
    (folder / "photos/cat").mkdir(parents=True)
    (folder / "folder").mkdir()
    files: dict[str, bytes] = {
        "photos/cat/1.jpg": b"",
        "folder/notes.txt": b"",
        "zero.pt": b"",
        "table.csv": b"label,a,b\n1,2,3\n",
        "data.json": b"{}",
        "broken.npz": b"x",
        "text.txt": b"one line of text\nanother line\n",
        "latin.txt": b"caf\xe9\n",
        "bad.jsonl": b"{\n",
        "no_text.jsonl": b'{"sentence": "a"}\n',
        "empty.txt": b"",
        "mycode.py": CODE.encode(),
        "broken_code.py": b"import no_such_package\n",
        "page.safetensors": b"<!DOCTYPE html>",
        "lfs.safetensors": b"version https://git-lfs.github.com/spec/v1\n",
        "model.gguf": b"GGUF\0\0",
        "model.h5": b"\x89HDF\r\n\x1a\n",
        "weights.tar": b"x" * 257 + b"ustar",
        "plan.json": b"{}",
        "bad_plan.json": b"not json",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the commands name."""
    made = tmp_path_factory.mktemp("mistakes")
    for write in (write_models, write_data, write_others):
        write(made)
    return made


def test_the_table_is_long_enough() -> None:
    commands = [command for section in ROWS.values() for command, _, _ in section]
    assert len(commands) == len(set(commands)) >= 200


@pytest.mark.parametrize("section", ROWS)
def test_a_mistake_is_told_in_one_line_with_its_cure(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    section: str,
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(main.signal, "signal", Mock())
    before = tree(folder)
    for command, code, message in ROWS[section]:
        monkeypatch.setattr(sys, "argv", ["rmtcli", *shlex.split(command)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        line = capsys.readouterr().err
        wanted = re.escape(f"rmtcli: error: {message}").replace("…", ".*")
        assert re.fullmatch(rf"{wanted}( \(see 'rmtcli[^']*'\))?\n", line), f"{command}\n{line}"
        assert ended.value.code == code, command
    assert tree(folder) == before


#: Rows for which torch is needed: a network runs, or weights are in torch's own format.
NEEDS_TORCH = re.compile(
    r"--(eval|model) mycode:|many|narrow|tpu|latency|--calib|finetune|unlabelled|"
    r"broken_code|nothing:Net|m --"
)


def test_mistakes_are_told_before_torch_is_imported(folder: Path) -> None:
    """Every fifth of them, in one process."""
    every = [command for section in ROWS.values() for command, _, _ in section]
    commands = [command for command in every if not NEEDS_TORCH.search(command)][::5]
    program = (
        "import json, sys\n"
        "from rmtcli.cli.main import main\n"
        "late = []\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['rmtcli', *command]\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit:\n"
        "        pass\n"
        "    if 'torch' in sys.modules:\n"
        "        sys.exit(f'torch was imported: {command}')\n"
    )
    words = json.dumps(list(map(shlex.split, commands)))
    done = subprocess.run(
        [sys.executable, "-B", "-c", program, words],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stderr.count("rmtcli: error: ") == len(commands) > 35


@pytest.mark.parametrize("name", ["none.txt", "empty.txt", "latin.txt", "bad.jsonl", "table.csv"])
def test_texts_are_checked_before_torch_is_imported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "rmtcli.running.calibrate", None)  # importing it fails
    with pytest.raises(RmtcliError, match=name):
        rmtcli.prune(
            folder / "m",
            budget="80%",
            evaluation=rmtcli.Evaluation(task="sentence-embedding"),
            calibration=rmtcli.Calibration(folder / name),
            dry_run=True,
        )
