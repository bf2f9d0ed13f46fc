from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rmtcli.errors import CheckpointError, EvaluationError, UsageError
from rmtcli.evaluation.data import has_training_part, read_samples
from rmtcli.evaluation.reading import CLASSES

X = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
Y = np.arange(6)


def test_npz_and_safetensors_give_the_same_samples(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", inputs=X, targets=Y, other=np.ones(2))
    arrays = {"inputs": torch.from_numpy(X), "targets": torch.from_numpy(Y)}
    save_file(arrays, tmp_path / "a.safetensors")
    for name in ("a.npz", "a.safetensors"):
        samples = read_samples(tmp_path / name)
        np.testing.assert_array_equal(samples.inputs, X)
        np.testing.assert_array_equal(samples.targets, Y)
        assert not samples.scaled


def test_bytes_are_divided_by_255_and_other_integers_are_not(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", inputs=np.array([[0, 51, 255]], np.uint8))
    samples = read_samples(tmp_path / "a.npz")
    np.testing.assert_allclose(samples.inputs, [[0, 0.2, 1]], rtol=1e-6)
    assert samples.scaled
    assert samples.targets is None
    np.savez(tmp_path / "b.npz", inputs=np.array([[0, 51, 255]]))
    samples = read_samples(tmp_path / "b.npz")
    np.testing.assert_array_equal(samples.inputs, [[0, 51, 255]])
    assert not samples.scaled


BAD: list[tuple[dict[str, Any], str]] = [
    ({"inputs": X[0]}, "'inputs' has shape (4,): it must be (samples, features…)"),
    ({"inputs": X[:0]}, "'inputs' has shape (0, 4): it must be (samples, features…)"),
    (
        {"inputs": X, "targets": Y[:3]},
        "'targets' has shape (3,): it must have one number, or one row, for each of 6 samples",
    ),
    (
        {"inputs": X, "targets": np.zeros((6, 2, 2))},
        "'targets' has shape (6, 2, 2): it must have one number, or one row, for each of 6 samples",
    ),
    (
        {"inputs": X, "targets": np.where(X[:, 0] < 9, np.inf, 0)},
        "'targets' holds values that are NaN or infinite",
    ),
    ({"inputs": np.where(X > 1, np.nan, X)}, "'inputs' holds values that are NaN or infinite"),
]


@pytest.mark.parametrize(("arrays", "message"), BAD)
def test_bad_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(EvaluationError) as caught:
        read_samples(tmp_path / "a.npz")
    assert str(caught.value) == f"{tmp_path / 'a.npz'}: {message}"


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_samples(tmp_path / "none.npz")
    (tmp_path / "a.csv").write_text("1,2")
    for content in (b"", b"text", b"PK\x03\x04rest"):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(EvaluationError, match=r"not a whole \.npz file"):
            read_samples(tmp_path / "a.npz")
    (tmp_path / "a.safetensors").write_bytes(b"text")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        read_samples(tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", inputs=np.array([{}, {}], dtype=object))  # would be a pickle
    with pytest.raises(EvaluationError, match=r"not a whole \.npz file"):
        read_samples(tmp_path / "a.npz")


def test_unusual_archives_and_arrays_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.save(tmp_path / "b.npy", X)
    path.write_bytes((tmp_path / "b.npy").read_bytes())
    with pytest.raises(EvaluationError, match=r"not a whole \.npz file"):
        read_samples(path)
    import zipfile

    with zipfile.ZipFile(path, "w") as file:
        file.writestr("inputs.npy", b"\x93NUMPY\x01\x00 broken")
    with pytest.raises(EvaluationError, match=r"not a whole \.npz file"):
        read_samples(path)
    for bad in (np.array([["a", "b"]]), np.array([["2020"]], "datetime64[Y]")):
        np.savez(path, inputs=bad)
        with pytest.raises(EvaluationError, match="not numbers"):
            read_samples(path)
    for targets in (np.full(6, -100), np.full(6, 2**64 - 1, np.uint64)):
        np.savez(path, inputs=X, targets=targets)
        with pytest.raises(EvaluationError, match="is not a class number"):
            CLASSES.ready(read_samples(path))
    np.savez(tmp_path / "UP.NPZ", inputs=X)
    (tmp_path / "UP.NPZ.npz").rename(tmp_path / "UP.NPZ")
    np.testing.assert_array_equal(read_samples(tmp_path / "UP.NPZ").inputs, X)
    for odd in (X.astype(">f4"), X.astype(np.longdouble)):
        np.savez(path, inputs=odd)
        np.testing.assert_array_equal(read_samples(path).inputs, X)
    with pytest.raises(UsageError, match="is a directory"):
        read_samples(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "taken"),
    [
        ({"x": X}, "'x'"),
        ({"y": Y, "images": X}, "'images' and 'y'"),
        ({"arr_0": X.reshape(6, 2, 2), "arr_1": Y}, "'arr_0' and 'arr_1'"),
    ],
)
@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_the_only_arrays_are_taken_under_any_name(
    tmp_path: Path, arrays: dict[str, Any], taken: str, ending: str
) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "npz":
        np.savez(path, **arrays)
    else:
        save_file({name: torch.tensor(array) for name, array in arrays.items()}, path)
    samples = read_samples(path)
    assert samples.taken == taken
    np.testing.assert_array_equal(samples.inputs.reshape(6, 4), X)
    assert samples.targets is None if len(arrays) == 1 else (samples.targets == Y).all()


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
@pytest.mark.parametrize(
    ("arrays", "guess"),
    [
        ({"X": X, "y": Y, "weights": np.ones(3)}, {"inputs": "X", "targets": "y"}),
        ({"X": X, "y": np.eye(6)}, {"inputs": "X"}),
        ({"y": Y}, {}),
    ],
)
def test_arrays_of_other_names_are_shown_with_the_command_that_names_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
    arrays: dict[str, Any],
    guess: dict[str, str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(f"it's $5.{ending}")
    if ending == "npz":
        np.savez(path, **arrays)
    else:
        save_file({name: torch.tensor(array) for name, array in arrays.items()}, path)
    with pytest.raises(EvaluationError, match="has no array named 'inputs': it holds") as caught:
        read_samples(path)
    assert all(f"{name} {array.shape}" in str(caught.value) for name, array in arrays.items())
    if set(guess) == {"inputs", "targets"}:
        convert(str(caught.value))
        samples = read_samples(Path(f"it's $5-named.{ending}"))
        np.testing.assert_array_equal(samples.inputs, X)
        np.testing.assert_array_equal(samples.targets, Y)


def convert(message: str) -> None:
    """Run the command at the end of a message, in this process, as a shell would read it."""
    words = shlex.split(message[message.index("python -c ") :])
    assert len(words) == 3
    exec(words[2], {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("label,a,b,c,d\n", "a table of 5 columns (label, a, b, …): make arrays of it, here"),
        ("", "a table of 5 columns: make arrays of it, here with column 5 as the class"),
        ("a,b,class,c,d\n", "here with column 3 as the class"),
    ],
)
def test_a_table_is_shown_with_the_command_that_converts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    column = {"l": 0, "a": 2}.get(text[:1], 4)
    rows = np.insert(X.astype(object), column, Y, axis=1)
    Path("a.csv").write_text(text + "".join(",".join(map(str, row)) + "\n" for row in rows))
    with pytest.raises(UsageError, match=r"^a\.csv: ") as caught:
        read_samples("a.csv")
    assert words in str(caught.value)
    convert(str(caught.value))
    samples = read_samples("a.npz")
    np.testing.assert_allclose(samples.inputs, X, rtol=1e-6)
    np.testing.assert_array_equal(samples.targets, Y)


def test_a_folder_of_images_and_files_of_other_programs_are_told(tmp_path: Path) -> None:
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "photos/cat/1.JPG").touch()
    (tmp_path / "photos/dog").mkdir()
    with pytest.raises(
        UsageError, match=r"a folder of images, by class \(cat, dog\): .*torchvision"
    ):
        read_samples(tmp_path / "photos")
    for name, word in (("a.pt", "torch.load"), ("a.mat", "loadmat"), ("a.h5", "h5py")):
        (tmp_path / name).touch()
        with pytest.raises(UsageError, match=rf"with 'inputs' and, .*{word}"):
            read_samples(tmp_path / name)


def test_a_pair_of_npy_files_is_inputs_and_targets(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    alone = read_samples(tmp_path / "x.npy")
    assert alone.targets is None
    pair = read_samples(f"{tmp_path / 'x.npy'},{tmp_path / 'y.npy'}")
    np.testing.assert_array_equal(pair.inputs, X)
    np.testing.assert_array_equal(pair.targets, Y)
    assert not has_training_part(f"{tmp_path / 'x.npy'},{tmp_path / 'y.npy'}")
    with pytest.raises(UsageError, match=r"z\.npy: no such file"):
        read_samples(f"{tmp_path / 'x.npy'},{tmp_path / 'z.npy'}")
    (tmp_path / "y.npy").write_bytes(b"text")
    with pytest.raises(EvaluationError, match=r"not a whole \.npy file"):
        read_samples(f"{tmp_path / 'x.npy'},{tmp_path / 'y.npy'}")


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_a_training_part_is_recognised_without_reading_its_values(
    tmp_path: Path, ending: str
) -> None:
    arrays = {"inputs": X, "train_inputs": X}
    path = tmp_path / f"a.{ending}"
    if ending == "npz":
        np.savez(path, **arrays)
    else:
        save_file({name: torch.tensor(array) for name, array in arrays.items()}, path)
    content = path.read_bytes()
    first = content.index(X.tobytes())
    second = content.index(X.tobytes(), first + 1)
    path.write_bytes(content[:second] + b"\x7f" * X.nbytes + content[second + X.nbytes :])
    assert has_training_part(path)
    np.savez(tmp_path / "b.npz", inputs=X, train_targets=Y)
    assert not has_training_part(tmp_path / "b.npz")
    (tmp_path / "c.npz").write_bytes(b"PK\x03\x04rest")
    with pytest.raises(EvaluationError, match=r"not a whole \.npz file"):
        has_training_part(tmp_path / "c.npz")
