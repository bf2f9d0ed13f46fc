"""Published experiments, on images made up in a second."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rmtcli import reproduce
from rmtcli.errors import EvaluationError, UsageError
from rmtcli.experiments.catalogue import EXPERIMENTS
from rmtcli.experiments.idx import read_split
from rmtcli.experiments.networks import mlp
from rmtcli.experiments.run import cut_smallest, noisy
from tests.conftest import ROOT, Run


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Write images of ten classes with bright rows; the test files are not gzipped."""
    folder = tmp_path / "digits"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, count, ending in (("train", 1280, ".gz"), ("t10k", 200, "")):
        labels = rng.integers(0, 10, count)
        pixels = rng.integers(0, 60, (count, 28, 28))
        for i, label in enumerate(labels):
            pixels[i, 2 * label : 2 * label + 3] += 150
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            data = idx(array)
            path = folder / f"{split}-{kind}-ubyte{ending}"
            path.write_bytes(gzip.compress(data) if ending else data)
    return folder


def test_idx_files_are_read(images: Path) -> None:
    x, y = read_split(images, "train")
    assert (x.shape, y.shape) == ((1280, 784), (1280,))
    assert x.dtype == np.uint8
    bright = x.reshape(-1, 28, 28).mean(2).argmax(1)
    assert (abs(bright - 2 * y.astype(int) - 1) <= 1).all()


def cut_off(folder: Path) -> None:
    path = folder / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])


def wrong(folder: Path) -> None:
    (folder / "t10k-images-idx3-ubyte").write_bytes(b"PNG")


def fewer(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(7)))


def gone(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").unlink()


def torn(folder: Path) -> None:
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (cut_off, r"t10k-images-idx3-ubyte: holds \d+ bytes, not 156800"),
        (wrong, "not an IDX file of bytes with 3 axes"),
        (fewer, "200 images and 7 labels in the split 't10k'"),
        (gone, "has no file t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz"),
        (torn, "train-images-idx3-ubyte.gz: cannot be read"),
    ],
)
def test_damaged_images_are_refused(images: Path, harm: object, line: str) -> None:
    harm(images)  # type: ignore[operator]
    with pytest.raises((EvaluationError, UsageError), match=line):
        reproduce("mnist-training", images, seeds=1, epochs=1)


def test_the_requested_share_of_labels_is_wrong() -> None:
    labels = torch.arange(10).repeat(100)
    changed = noisy(labels, 0.4, seed=0)
    assert int((changed != labels).sum()) == 400
    assert torch.equal(changed, noisy(labels, 0.4, seed=0))
    counts = torch.bincount((changed - labels)[changed != labels] % 10, minlength=10)
    assert counts[0] == 0
    assert counts[1:].min() > 20  # each other class is as likely: 44 ± 6
    assert torch.equal(noisy(labels, 0.0, seed=0), labels)


def test_magnitude_pruning_sets_the_smallest_weights_to_zero() -> None:
    model = mlp([20, 30, 10], seed=0)
    sizes = torch.cat([p.abs().flatten() for p in model.parameters() if p.ndim > 1]).sort()[0]
    cut_smallest(model, 500)
    kept = torch.cat([m.weight.abs().flatten() for m in (model.fc1, model.fc2)])
    assert int((kept == 0).sum()) == 500
    assert kept[kept > 0].min() == sizes[500]


def test_a_small_run_on_the_command_line(images: Path, tmp_path: Path, rmtcli: Run) -> None:
    """Rows and baselines of equal size; a second run repeats nothing."""
    output = tmp_path / "results.json"
    arguments = ("reproduce", "mnist-training", "--data", images, "--epochs", "6", "-o", output)
    rows = ("--rows", "magnitude*")
    done = rmtcli(*arguments, *rows, "--seeds", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["network", "runs", "test,"]
    record = json.loads(output.read_text())
    spikes, magnitude = record["outcomes"].values()
    for seed in ("0", "1"):
        assert magnitude[seed]["parameters"] == spikes[seed]["parameters"]
        assert spikes[seed]["parameters"] < spikes[seed]["dense"]
        assert spikes[seed]["test"] > 50
        assert len(spikes[seed]["curve"]) == 6
    assert done.stderr.count("seed ") == 4

    again = rmtcli(*arguments, *rows, "--seeds", "2")
    assert again.stdout == done.stdout
    assert again.stderr == ""
    more = rmtcli(*arguments, "--rows", "dense", "--seeds", "1")
    assert more.stderr.count("seed ") == 1
    other = rmtcli(*arguments[:4], "--epochs", "2", "-o", output)
    assert other.returncode == 2
    assert "a record with other settings for" in other.stderr


def test_a_run_does_not_depend_on_earlier_runs(images: Path) -> None:
    alone = reproduce("mnist-training", images, seeds=1, epochs=2, rows="dropout*")
    both = reproduce("mnist-training", images, seeds=1, epochs=2, rows="d*")
    assert len(both.outcomes) == 3
    assert both.outcomes["dropout 0.5"] == alone.outcomes["dropout 0.5"]


def test_truncated_networks_are_compared_with_the_dense_one(images: Path) -> None:
    result = reproduce("mnist-pretrained", images, seeds=1, epochs=2)
    (first, *others) = result.rows()
    assert first[0] == "dense"
    assert first[3] == ""
    assert [row[0] for row in others][-1] == "edge rank"
    assert [row[8] for row in others][:2] == ["75.75", "90.71"]
    for row in others[:-1]:
        rank = int(row[5])
        assert row[0] == f"rank {rank}"
        assert row[6] == f"{795_010 - 784_000 + rank * 1784:,}"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"name": "imagenet"}, "unknown experiment 'imagenet': choose one of mnist-pretrained"),
        ({"rows": "x*"}, "no row of mnist-training is called 'x\\*': they are dense, RMT-SVD"),
        ({"seeds": 0}, "seeds= must be at least 1"),
        ({"epochs": 0}, "epochs= must be at least 1"),
        ({"data": "nowhere"}, "nowhere: no such folder"),
        ({"output": "results.csv"}, "results.csv: results are kept in a .json file"),
    ],
)
def test_wrong_requests_are_named(images: Path, options: dict[str, object], line: str) -> None:
    arguments = {"name": "mnist-training", "data": images} | options
    with pytest.raises(UsageError, match=line):
        reproduce(**arguments)  # type: ignore[arg-type]


def test_a_file_with_other_contents_is_not_replaced(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine.json"
    output.write_text('{"experiment": "fashion"}')
    with pytest.raises(UsageError, match=r"mine\.json: not a record of mnist-training"):
        reproduce("mnist-training", images, output=output)
    assert output.read_text() == '{"experiment": "fashion"}'


def test_every_experiment_is_documented() -> None:
    page = (ROOT / "docs/reproduction.md").read_text()
    reference = (ROOT / "docs/cli.md").read_text()
    for name, experiment in EXPERIMENTS.items():
        assert f"`{name}`" in page
        assert name in reference
        titles = [row.title for row in experiment.rows]
        assert len(set(titles)) == len(titles)
        for row in experiment.rows:
            if row.magnitude_like is not None:
                assert titles.index(row.magnitude_like) < titles.index(row.title)
            assert experiment.reference(row.title) in titles
    assert replace(EXPERIMENTS["fashion"], name="x") != EXPERIMENTS["fashion"]
