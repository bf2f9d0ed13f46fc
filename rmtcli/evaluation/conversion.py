"""What a file that holds no samples by rmtcli's names holds, and the command that converts it."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Mapping
from pathlib import Path

#: Arrays by name: shape and type.
Shapes = Mapping[str, tuple[tuple[int, ...], str]]
#: Names of columns that hold a class.
_CLASSES = ("label", "labels", "target", "targets", "class", "y")
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_KINDS = "data must be an .npz or .safetensors file with 'inputs' and, for accuracy, 'targets'"
#: Bytes of a table that are looked at.
_HEAD = 65_536
#: Ending -> how Python reads such a file as inputs x and targets y.
_READERS = {
    ".pt": "import torch; x, y = torch.load({file})",
    ".pth": "import torch; x, y = torch.load({file})",
    ".pkl": "import pickle; x, y = pickle.load(open({file}, 'rb'))",
    ".mat": "from scipy.io import loadmat; d = loadmat({file}); x, y = d['X'], d['y'].ravel()",
    ".h5": "import h5py; d = h5py.File({file}); x, y = d['X'][:], d['y'][:]",
    ".hdf5": "import h5py; d = h5py.File({file}); x, y = d['X'][:], d['y'][:]",
    ".parquet": "import pandas as pd; t = pd.read_parquet({file}); y = t.pop('label'); x = t",
}


def of_arrays(path: Path, shapes: Shapes) -> str:
    """What a file with arrays of other names holds, and how to name them."""
    held = ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in shapes.items())
    inputs = next((name for name, (shape, _) in shapes.items() if len(shape) > 1), "NAME")
    rows = shapes[inputs][0][:1] if inputs in shapes else ()
    targets = next((name for name, (shape, _) in shapes.items() if shape == rows), "NAME")
    output = f"{path.stem}-named{path.suffix}"
    if path.suffix == ".safetensors":
        code = (
            "from safetensors.numpy import load_file, save_file; "
            f"d = load_file({str(path)!r}); "
            f"save_file({{'inputs': d[{inputs!r}], 'targets': d[{targets!r}]}}, {output!r})"
        )
    else:
        code = (
            f"import numpy as np; d = np.load({str(path)!r}); "
            f"np.savez({output!r}, inputs=d[{inputs!r}], targets=d[{targets!r}])"
        )
    return f"it holds {held or 'nothing'}; name them by {_python(code)}"


def of_other(path: Path) -> str:
    """What a file or folder of another kind is, and how to convert it."""
    if path.is_dir():
        return _of_folder(path)
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv"):
        return _of_table(path, "," if ending == ".csv" else "\t")
    if ending in _READERS:
        read = _READERS[ending].format(file=repr(str(path)))
        return f"{_KINDS}: {_python(f'{read}; {_saving(path)}')}"
    return _KINDS


def _of_folder(path: Path) -> str:
    """A folder: images in one folder per class, or something else."""
    classes = sorted(folder.name for folder in path.iterdir() if folder.is_dir())
    images = (file for name in classes for file in (path / name).iterdir())
    if not any(file.suffix.lower() in _IMAGES for file in images):
        return "is a directory: name a file of arrays"
    code = (
        "import numpy as np; from torchvision import datasets, transforms as t; "
        f"d = datasets.ImageFolder({str(path)!r}, t.Compose([t.Resize((224, 224)), "
        "t.PILToTensor()])); np.savez("
        f"{path.name + '.npz'!r}, inputs=np.stack([x.numpy() for x, _ in d]), targets=d.targets)"
    )
    shown = ", ".join(classes[:3]) + (", …" if len(classes) > 3 else "")
    return (
        f"a folder of images, by class ({shown}): make arrays of them, in the size that the "
        f"network takes: {_python(code)}"
    )


def _of_table(path: Path, separator: str) -> str:
    """A table in text: its columns, and which of them is taken for the class."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        line = next(csv.reader([file.readline(_HEAD)], delimiter=separator), [])
    header = not all(map(_is_number, line))
    named = [i for i, name in enumerate(line) if name.strip().lower() in _CLASSES]
    column = named[0] if named and header else len(line) - 1
    rest = {0: "t[:, 1:]", len(line) - 1: "t[:, :-1]"}.get(column, f"np.delete(t, {column}, 1)")
    names = f" ({', '.join(line[:3])}{', …' if len(line) > 3 else ''})" if header else ""
    skip = ", skip_header=1" if header else ""
    code = (
        f"import numpy as np; t = np.genfromtxt({str(path)!r}, delimiter={separator!r}{skip}); "
        f"np.savez({path.stem + '.npz'!r}, inputs={rest}.astype('f4'), "
        f"targets=t[:, {column}].astype(int))"
    )
    return (
        f"a table of {len(line)} columns{names}: make arrays of it, here with column "
        f"{column + 1} as the class: {_python(code)}"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _saving(path: Path) -> str:
    return f"import numpy as np; np.savez({path.stem + '.npz'!r}, inputs=x, targets=y)"


def _python(code: str) -> str:
    """A command that runs a line of Python, quoted so that a shell replaces nothing in it."""
    plain = not any(sign in code for sign in '"$`\\!')
    return f'python -c "{code}"' if plain else f"python -c {shlex.quote(code)}"
