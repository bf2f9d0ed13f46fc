"""Invalid inputs: one line of error, its exit code, and no file changed or left behind."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rmtcli.checkpoint import endings
from rmtcli.cli import main
from rmtcli.keep import KEEP_RULES
from tests.conftest import Run, model_directory, tree
from tests.sandbox import Sandbox

MLP = "sample_models/mnist_mlp.safetensors"
NO_MEMORY = "rmtcli: error: not enough memory: run on a machine with more; nothing was written\n"


class Payload:
    def __reduce__(self) -> Any:
        return os.mkdir, ("owned",)


def payload(folder: Path) -> None:
    torch.save({"weight": torch.ones(40, 40), "x": Payload()}, folder / "payload.pt")


def hyperparameters(folder: Path) -> None:
    state = {"state_dict": {"a.weight": torch.ones(40, 40)}}
    torch.save(state | {"hyper_parameters": argparse.Namespace(lr=1)}, folder / "hyper.ckpt")


def exported(folder: Path) -> None:
    with zipfile.ZipFile(folder / "old.pt2", "w") as archive:
        archive.writestr("serialized_state_dict.pt", b"x")
    (folder / "broken.pt2").write_bytes(b"PK nothing")


def truncated(folder: Path) -> None:
    (folder / "cut.safetensors").write_bytes((folder / MLP).read_bytes()[:100_000])
    (folder / "cut.pt").write_bytes((folder / "sample_models/mnist_deep.pt").read_bytes()[:99_999])


def empty(folder: Path) -> None:
    (folder / "empty.pt").touch()
    (folder / "empty.safetensors").touch()


def nan(folder: Path) -> None:
    tensors = load_file(folder / MLP)
    tensors["fc1.weight"][5, 5] = np.nan
    save_file(tensors, folder / "nan.safetensors")


def existing(folder: Path) -> None:
    shutil.copy(folder / MLP, folder / "there.safetensors")


def weightless(folder: Path) -> None:
    model_directory(folder / "m", {"a.weight": torch.ones(40, 40)})
    (folder / "m/model.safetensors").unlink()


def shardless(folder: Path) -> None:
    tensors = {"a.weight": torch.ones(40, 40), "b.weight": torch.ones(40, 40)}
    model_directory(folder / "m", tensors, shards=2)
    (folder / "m/model-00001-of-00002.safetensors").unlink()


def misindexed(folder: Path) -> None:
    tensors = {"a.weight": torch.ones(40, 40), "b.weight": torch.ones(40, 40)}
    model_directory(folder / "m", tensors, shards=2)
    save_file({"c": torch.ones(2)}, folder / "m/model-00001-of-00002.safetensors")


def adapter(folder: Path) -> None:
    (folder / "m").mkdir()
    (folder / "m/adapter_config.json").write_text("{}")


def two_models(folder: Path) -> None:
    model_directory(folder / "m", {"a.weight": torch.ones(40, 40)})
    (folder / "thesis").mkdir()
    (folder / "thesis/chapter.txt").touch()


def quantised(folder: Path) -> None:
    config: dict[str, object] = {"quantization_config": {"quant_method": "gptq"}}
    model_directory(folder / "m", {"a.weight": torch.ones(40, 40)}, config)


def nothing(folder: Path) -> None:
    pass


#: Name -> (files to make, arguments, exit code, message).
CASES: dict[str, tuple[Any, str, int, str]] = {
    "calibration data missing": (
        nothing,
        f"prune {MLP} --calib nope.npz",
        2,
        "nope.npz: no such file",
    ),
    "plan is a directory": (nothing, f"prune {MLP} --apply .", 2, ".: is a directory: name a plan"),
    "plan and report are one": (
        nothing,
        f"prune {MLP} --dry-run --plan a.json --report a.json",
        2,
        "a.json: is given for two outputs: give each a file of its own",
    ),
    "statistics and output are one": (
        nothing,
        f"prune {MLP} --calib fits.npz --stats a.safetensors -o a.safetensors",
        2,
        "a.safetensors: is given for two outputs: give each a file of its own",
    ),
    "healing without inputs": (
        nothing,
        f"prune {MLP} --heal 2",
        2,
        "--sequential, --heal and --heal-minutes run the network: give inputs with --calib",
    ),
    "plot of another kind": (
        nothing,
        f"curve {MLP} --data fits.npz --plot a.gif",
        2,
        "a.gif: its name must end in .svg or .png or .pdf",
    ),
    "payload": (
        payload,
        "prune payload.pt",
        1,
        "payload.pt: refused: its pickle calls for posix.mkdir, and only tensors and plain values "
        "are read (nothing was run): save model.state_dict() instead",
    ),
    "hyper-parameters that are not plain values": (
        hyperparameters,
        "prune hyper.ckpt",
        1,
        "hyper.ckpt: refused: its pickle calls for argparse.Namespace, and only tensors and plain "
        "values are read (nothing was run): save model.state_dict() instead",
    ),
    "exported by an older torch": (
        exported,
        "prune old.pt2",
        1,
        "old.pt2: holds no table of weights of one model: export it again with torch 2.9 or newer, "
        "or save model.state_dict() instead",
    ),
    "not an exported program": (
        exported,
        "analyze broken.pt2",
        1,
        "broken.pt2: not a whole torch.export archive (File is not a zip file)",
    ),
    "an exported program as the output": (
        nothing,
        f"prune {MLP} -o a.pt2",
        2,
        "a.pt2: this format is read only: name a .safetensors or .pt file",
    ),
    "truncated safetensors": (
        truncated,
        "prune cut.safetensors",
        1,
        "cut.safetensors: not a whole safetensors file (Error while deserializing header: …)",
    ),
    "truncated torch": (
        truncated,
        "prune cut.pt",
        1,
        "cut.pt: not a whole torch checkpoint: it is damaged, cut short or of another format",
    ),
    "directory": (
        nothing,
        "prune sample_models",
        2,
        "sample_models: is a directory: name the checkpoint file in it",
    ),
    "missing": (nothing, "analyze none.pt", 2, "none.pt: no such file"),
    "empty": (empty, "prune empty.pt", 1, "empty.pt: the file is empty"),
    "empty safetensors": (
        empty,
        "analyze empty.safetensors",
        1,
        "empty.safetensors: the file is empty",
    ),
    "NaN": (
        nan,
        "prune nan.safetensors",
        1,
        "nan.safetensors: fc1.weight holds values that are NaN or infinite: repair the checkpoint, "
        "or leave the layer out with --exclude 'fc1.weight'",
    ),
    "wrong keep": (
        nothing,
        f"prune {MLP} --keep most",
        2,
        f"unknown keep rule 'most': choose one of {', '.join(KEEP_RULES.choices)}",
    ),
    "keep out of range": (
        nothing,
        f"prune {MLP} --keep energy:fraction=95",
        2,
        "keep rule 'energy:fraction=95': fraction must be from 0 to 1, not 95.0",
    ),
    "output is input": (
        nothing,
        f"prune {MLP} -o {MLP} --force",
        2,
        f"{MLP}: is an input, and inputs are never overwritten",
    ),
    "output is data": (
        nothing,
        f"prune {MLP} --data sample_models/planted.safetensors "
        "-o sample_models/planted.safetensors --force",
        2,
        "sample_models/planted.safetensors: is an input, and inputs are never overwritten",
    ),
    "output exists": (
        existing,
        f"prune {MLP} -o there.safetensors",
        2,
        "there.safetensors: exists already: give --force to replace it",
    ),
    "output of no known format": (
        nothing,
        f"prune {MLP} -o out.h5",
        2,
        "out.h5: not a checkpoint by its name: the ending must be one of " + ", ".join(endings()),
    ),
    "report is the model": (
        nothing,
        f"analyze {MLP} --report {MLP}",
        2,
        f"{MLP}: its name must end in .md or .json or .html or .xml",
    ),
    "pattern without match": (
        nothing,
        f"prune {MLP} --exclude fc9*",
        2,
        f"pattern 'fc9*' matches no tensor in {MLP}: the nearest are fc2, fc1",
    ),
    "nothing to prune": (
        nothing,
        f"prune {MLP} --keep fraction:of=1",
        1,
        f"{MLP}: no layer can be pruned by --keep fraction:of=1: no checkpoint written",
    ),
    "data that does not fit": (
        nothing,
        f"prune {MLP} --data wrong.npz",
        1,
        "wrong.npz: the network does not take inputs of shape (3, 9): "
        "mat1 and mat2 shapes cannot be multiplied (3x9 and 784x1000)",
    ),
    "nothing to evaluate on": (
        nothing,
        f"evaluate {MLP}",
        2,
        "nothing to evaluate on: give --data or --eval",
    ),
    "a score that is not a number": (
        nothing,
        f"prune {MLP} --eval score:nan",
        1,
        "score:nan returned nan: a score must be finite",
    ),
    "accuracy without targets": (
        nothing,
        f"evaluate {MLP} --data fits.npz",
        1,
        "fits.npz: has no 'targets', so accuracy cannot be measured: give --against to compare "
        "with another network",
    ),
    "an option twice": (
        nothing,
        f"prune {MLP} --keep rank:k=4,k=5",
        2,
        "keep rule 'rank:k=4,k=5': k is given twice",
    ),
    "a network that is not used": (
        nothing,
        f"prune {MLP} --model nope:nope --keep edge",
        2,
        "--model is used to evaluate, to calibrate, or to try what --keep auto decides: give "
        "--data, --eval or --calib",
    ),
    "a network that cannot be tried": (
        nothing,
        f"prune {MLP} --model nope:nope",
        2,
        "'nope:nope' cannot be imported: No module named 'nope'",
    ),
    "an edge beyond the law": (
        nothing,
        f"analyze {MLP} --edge bema:beta=1e-17",
        2,
        "edge estimator 'bema:beta=1e-17': beta must be from 1e-10 to 1 - 1e-10, not 1e-17",
    ),
    "no layers left": (
        nothing,
        f"prune {MLP} --include fc1.bias",
        1,
        f"{MLP}: no fully connected layers among 4 tensors; 2 left out by --include or --exclude",
    ),
    "report over the data": (
        nothing,
        f"prune {MLP} --data data.json --report data.json --force",
        2,
        "data.json: is an input, and inputs are never overwritten",
    ),
    "config without weights": (
        weightless,
        "prune m",
        1,
        "m: has a config.json, but no weights named model.safetensors or pytorch_model.bin: "
        "download or save them",
    ),
    "missing shard": (
        shardless,
        "prune m",
        1,
        "m/model.safetensors.index.json: names model-00001-of-00002.safetensors, which is not "
        "there: download it again",
    ),
    "wrong index": (
        misindexed,
        "prune m",
        1,
        "m/model.safetensors.index.json: says that model-00001-of-00002.safetensors holds "
        "'a.weight', which it does not: index and shards are not of one model",
    ),
    "adapter": (
        adapter,
        "prune m",
        2,
        "m: holds an adapter only: see rmtcli resize --dry-run, or rmtcli merge",
    ),
    "output lies in the input": (
        two_models,
        "prune m -o m/model.safetensors --force",
        2,
        "m/model.safetensors: is inside an input, and inputs are never changed",
    ),
    "output directory is something else": (
        two_models,
        "prune m -o thesis --force",
        2,
        "thesis: holds no model that could be replaced: name another one",
    ),
    "quantised by another method": (
        quantised,
        "prune m",
        1,
        "m: no fully connected layers among 1 tensors; 1 already quantised by another tool: prune "
        "the network that it was made from",
    ),
    "info on nothing": (nothing, "info none.pt", 2, "none.pt: no such file"),
    "nothing to densify": (
        nothing,
        f"densify {MLP} -o out.safetensors",
        1,
        f"{MLP}: holds no factors that rmtcli wrote: there is nothing to undo",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_invalid_input_is_reported_in_one_line(
    workdir: Path, sandbox: Sandbox, name: str
) -> None:
    build, arguments, code, line = CASES[name]
    build(workdir)
    np.savez(workdir / "wrong.npz", inputs=np.ones((3, 9), np.float32))
    np.savez(workdir / "fits.npz", inputs=np.ones((3, 784), np.float32))
    (workdir / "data.json").touch()
    (workdir / "score.py").write_text("def nan(model): return float('nan')\n")
    before = tree(workdir)
    result = sandbox.run(*arguments.split(), cwd=workdir)
    # An ellipsis stands for the words of another library, which change with its version.
    expected = re.escape(f"rmtcli: error: {line}\n").replace("…", ".+")
    assert re.fullmatch(expected, result.stderr), result.stderr
    assert result.code == code
    assert tree(workdir) == before
    assert not (workdir / "owned").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["prune"], "missing argument"),
        (["prune", MLP, "--kep", "auto"], "no such option"),
        (["nonsense"], "no such command"),
        (["analyze", MLP, "--min-side", "-1"], "--min-side must be at least 0, not '-1'"),
    ],
)
def test_an_invalid_command_line_exits_with_2(
    workdir: Path, sandbox: Sandbox, arguments: list[str], word: str
) -> None:
    before = tree(workdir)
    result = sandbox.run(*arguments, cwd=workdir)
    assert result.code == 2
    assert word in result.stderr
    assert "Traceback" not in result.stderr
    assert tree(workdir) == before


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        SystemError("error return without exception set"),  # raised by Python during imports
        SystemError("<class 'type'> returned NULL without setting an exception"),
        RuntimeError("can't start new thread"),
    ],
)
def test_lack_of_memory_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception
) -> None:
    monkeypatch.setattr(main, "defaults", Mock(side_effect=error))
    monkeypatch.setattr(main.signal, "signal", Mock())
    with pytest.raises(SystemExit, match="1"):
        main.main()
    assert capfd.readouterr().err == NO_MEMORY


@pytest.mark.parametrize("threads", [1, 2])
def test_lack_of_memory_at_the_start_is_reported_and_ends_the_program(
    workdir: Path, process: Run, threads: int
) -> None:
    """The limit is that of ``ulimit -v``, under which OpenBLAS would retry for ever."""
    resource = pytest.importorskip("resource")
    codes, before = [], tree(workdir)
    for megabytes in (200, 300, 400, 500, 600, 4000):
        limit = megabytes * 10**6
        result = process(
            "analyze",
            MLP,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
            timeout=60,
        )
        codes.append(result.returncode)
        if result.returncode:
            assert result.stderr == NO_MEMORY
    assert codes == sorted(codes, reverse=True)
    assert set(codes) == {0, 1}
    assert tree(workdir) == before


def test_other_errors_are_not_reported_as_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "defaults", Mock(side_effect=SystemError("bad argument")))
    monkeypatch.setattr(main.signal, "signal", Mock())
    with pytest.raises(SystemError, match="bad argument"):
        main.main()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write anything")
def test_a_file_without_permission_is_reported_in_one_line(workdir: Path, rmtcli: Run) -> None:
    (workdir / MLP).chmod(0)
    result = rmtcli("prune", MLP)
    assert result.returncode == 1
    assert result.stderr == f"rmtcli: error: {MLP}: Permission denied\n"


@pytest.mark.parametrize("source", [MLP, "m"])
def test_a_full_disk_leaves_no_file(workdir: Path, sandbox: Sandbox, source: str) -> None:
    model_directory(workdir / "m", load_file(workdir / MLP))
    before = tree(workdir)
    # A file beyond this size fails as on a full disk.
    result = sandbox.run("prune", source, "--keep", "edge", cwd=workdir, file_size=100_000)
    assert result.code == 1
    assert result.stderr.startswith("rmtcli: error: ")
    assert result.stderr.count("\n") == 1
    assert tree(workdir) == before
