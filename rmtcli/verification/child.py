"""The program that opens directories in a fresh process, as a user's program would.

``python -m rmtcli.verification.child FOLDER`` reads ``steps.json`` in the folder: a list of
directories, each with the way to open it. It writes ``answers.json`` and one ``.npy`` file per
output to the same folder. Of rmtcli it imports only :mod:`rmtcli.verification.inputs`, and
:mod:`rmtcli.integrations.transformers` when a step asks for it.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from rmtcli.verification.inputs import run

#: Standard deviation of weights that the files lack: that of transformers' own.
_SCALE = 0.02


def auto_class(config: dict[str, Any]) -> Any:
    """The transformers Auto class that opens the architecture named in a ``config.json``.

    Raises:
        ValueError: transformers has no such class.
    """
    wanted = (config.get("architectures") or [None])[0]
    if wanted is None:
        return transformers.AutoModel
    kind = config.get("model_type")
    names = sorted(name for name in dir(transformers) if name.startswith("AutoModel"))
    for name in names:
        auto = getattr(transformers, name)
        known = getattr(getattr(auto, "_model_mapping", None), "_model_mapping", {}).get(kind)
        if wanted in (known if isinstance(known, list | tuple) else (known,)):
            return auto
    raise ValueError(f"no Auto class of transformers {transformers.__version__} opens {wanted}")


def open_directory(directory: Path, route: str, dtype: str, output: Path) -> dict[str, Any]:
    """Open one directory, run the model once, and return what transformers reports.

    Args:
        directory: directory with ``config.json`` and weights.
        route: ``plain``, ``trust_remote_code`` or ``import``.
        dtype: precision in which the model runs.
        output: ``.npy`` file to write the model's output to.

    Returns:
        The fields of :class:`rmtcli.verification.parent.OpenedModel`, as JSON values.
    """
    if route == "import":
        import rmtcli.integrations.transformers  # noqa: F401

    auto = auto_class(json.loads((directory / "config.json").read_text(encoding="utf-8")))
    model, info = auto.from_pretrained(
        directory,
        trust_remote_code=route == "trust_remote_code",
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that transformers lists them by name
        local_files_only=True,
        dtype=getattr(torch, dtype),
    )
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    _fill(model, missing)
    result = run(model.eval())
    if result is not None:
        np.save(output, result[1].numpy())
    # transformers 4 lists names; version 5 lists each name with both shapes.
    mismatched = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    return {
        "class": type(model).__name__,
        "auto": auto.__name__,
        "transformers": transformers.__version__,
        "missing": missing,
        "unexpected": unexpected,
        "absent": _absent(model, missing, unexpected),
        "mismatched": sorted(mismatched),
        "registered": getattr(model, "hf_quantizer", None) is not None,
        "output": None if result is None else result[0],
        "transposed": _transposed(model),
    }


def _fill(model: nn.Module, missing: list[str]) -> None:
    """Give missing weights, which transformers draws at random, the same values in each process.

    The outputs of a model whose head is not in the files can then be compared.
    """
    values = model.state_dict()
    loaded = {value.data_ptr() for name, value in values.items() if name not in set(missing)}
    for name in missing:
        value = values.get(name)
        if value is not None and value.is_floating_point() and value.data_ptr() not in loaded:
            generator = torch.Generator().manual_seed(crc32(name.encode()))
            value.copy_(torch.randn(value.shape, generator=generator) * _SCALE)


def _absent(model: nn.Module, missing: list[str], unexpected: list[str]) -> list[str]:
    """The missing weights of which the files hold no part: those of a head, for example.

    A part is a numbered block of layers, or outside of these a module. A module of which the files
    hold tensors by other names, such as factors, is not absent.
    """
    first: dict[int, str] = {}  # of tied tensors, the files hold the first
    for name, value in model.state_dict().items():
        first.setdefault(value.data_ptr(), name)
    loaded = {_part(name) for name in set(first.values()) - set(missing)}
    others = [name.rsplit(".", level)[0] for name in unexpected for level in (1, 2)]
    return [
        name
        for name in missing
        if _part(name) not in loaded
        and not any(f".{name.rpartition('.')[0]}".endswith(f".{other}") for other in others)
    ]


def _part(name: str) -> str:
    """A name as far as its last number, or without its last word."""
    numbered = re.match(r".*\.\d+(?=\.)", name)
    return numbered[0] if numbered else name.rpartition(".")[0]


def _transposed(model: nn.Module) -> list[str]:
    """Last parts of the names of layers whose dense weight is stored as in × out."""
    names: dict[bool, set[str]] = {True: set(), False: set()}
    for name, module in model.named_modules():
        kinds = ("FactoredLinear", "PivotedLinear", "FactoredTable", "FactoredHead")
        split = type(module).__name__ in kinds
        if isinstance(module, nn.Linear | Conv1D) or split:
            transposed = getattr(module, "transposed", isinstance(module, Conv1D))
            names[bool(transposed)].add(name.rpartition(".")[2])
    return sorted(names[True] - names[False])


def main(folder: Path) -> None:
    """Carry out all steps in turn; a step that fails does not stop the ones after it."""
    answers = []
    for number, step in enumerate(json.loads((folder / "steps.json").read_text(encoding="utf-8"))):
        try:
            directory, output = Path(step["directory"]), folder / f"{number}.npy"
            answer = open_directory(directory, step["route"], step["dtype"], output)
        except Exception as error:  # of any kind: transformers documents none
            text = str(error).strip().splitlines() or [""]
            answer = {"error": f"{type(error).__name__}: {text[0]}"}
        answers.append(answer)
    (folder / "answers.json").write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
