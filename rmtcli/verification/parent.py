"""Start a fresh process that opens directories, and read its answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.errors import CheckpointError, UsageError


@dataclass(frozen=True, slots=True)
class OpenStep:
    """One directory to open, and the way to open it.

    Attributes:
        path: the directory.
        route: ``plain``, ``trust_remote_code`` or ``import``.
        dtype: precision in which the model runs.
    """

    path: Path
    route: str = "plain"
    dtype: str = "float32"


@dataclass(frozen=True, slots=True, eq=False)
class OpenedModel:
    """What transformers reports about one directory that it opened.

    Attributes:
        error: why the directory could not be opened; all other fields are then empty.
        kind: class of the model.
        auto: Auto class that opened it.
        transformers: version of transformers.
        missing: weights that the file lacks; transformers initialised them at random.
        unexpected: tensors of the file that the model does not use.
        mismatched: weights whose shape in the file differs from the model's.
        absent: those of the missing weights of which the files hold no part, such as a head's.
        registered: whether transformers knew the quantization method.
        output: name of the model's output; None if the model could not be run.
        transposed: last parts of the names of layers whose weight is stored as in × out.
        value: the output; None if the model could not be run.
    """

    error: str | None = None
    kind: str = ""
    auto: str = ""
    transformers: str = ""
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    registered: bool = False
    output: str | None = None
    transposed: frozenset[str] = frozenset()
    value: FloatArray | None = None

    def beyond(self, accepted: Collection[str]) -> OpenedModel:
        """This report without the missing and unexpected tensors that are accepted."""
        missing = tuple(name for name in self.missing if name not in accepted)
        unexpected = tuple(name for name in self.unexpected if name not in accepted)
        return replace(self, missing=missing, unexpected=unexpected)

    @property
    def fault(self) -> str | None:
        """What is wrong with the weights, as the end of a sentence; None if nothing is."""
        if self.error is not None:
            return f"it cannot be read: {self.error}"
        for names, fault in (
            (self.missing, "is missing, and drawn at random"),
            (self.unexpected, "is in the file, and the model has no place for it"),
            (self.mismatched, "has another shape in the file than in the model"),
        ):
            if names:
                more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
                return f"'{names[0]}'{more} {fault}"
        return None


def open_fresh(steps: Iterable[OpenStep], folder: Path) -> list[OpenedModel]:
    """Open directories one after another in one fresh process, without network access.

    Args:
        steps: the directories to open.
        folder: folder to create, through which the two processes exchange files.

    Returns:
        One answer per step.

    Raises:
        UsageError: transformers is not installed.
        CheckpointError: the process ended without an answer.
    """
    if find_spec("transformers") is None:
        raise UsageError("verify opens models with transformers: pip install transformers")
    folder.mkdir()
    values = [
        {"directory": str(step.path.resolve()), "route": step.route, "dtype": step.dtype}
        for step in steps
    ]
    (folder / "steps.json").write_text(json.dumps(values), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "rmtcli.verification.child", str(folder)],
        env=_environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CheckpointError(
            f"{values[0]['directory']}: the process that opens it ended with "
            f"{done.returncode}: {last}"
        )
    answers = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    return [_from_answer(answer, folder / f"{n}.npy") for n, answer in enumerate(answers)]


def _environment(folder: Path) -> dict[str, str]:
    """The environment of the process: without a network, and without the working folder's modules.

    An empty entry of ``PYTHONPATH``, as in ``$PYTHONPATH:/more``, stands for the working folder.
    """
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(folder / "modules"),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


def _from_answer(answer: dict[str, Any], value: Path) -> OpenedModel:
    if "error" in answer:
        return OpenedModel(error=answer["error"])
    return OpenedModel(
        kind=answer["class"],
        auto=answer["auto"],
        transformers=answer["transformers"],
        missing=tuple(answer["missing"]),
        unexpected=tuple(answer["unexpected"]),
        mismatched=tuple(answer["mismatched"]),
        absent=tuple(answer["absent"]),
        registered=answer["registered"],
        output=answer["output"],
        transposed=frozenset(answer["transposed"]),
        value=np.load(value).astype("f8") if value.exists() else None,
    )
