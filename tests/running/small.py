"""Small networks of several architectures, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

import rmtcli
from rmtcli.calibration import Calibration, Folder, MetricDecomposition
from rmtcli.calibration.collect import collect
from rmtcli.calibration.starts import softmax_root
from rmtcli.calibration.watch import Watch
from rmtcli.checkpoint import open_checkpoint
from rmtcli.evaluation import Evaluation, Harness
from rmtcli.layers import Layer, Selection, find_layers
from rmtcli.planning import Budget, LayerCalibration, LayerPlan, StoredDecomposition
from rmtcli.running.calibrate import masks_of
from rmtcli.running.modules import modules_of
from tests.integrations.factored import CASES, WORDS, tokenizer

TASKS = {"bert": "sentence-embedding", "vit": None, "t5": None}


def directory(folder: Path, case: str) -> Harness:
    CASES[case].model().save_pretrained(folder)
    tokenizer(24).save_pretrained(folder)
    return Evaluation(task=TASKS.get(case)).resolve(open_checkpoint(folder))


class Killed(BaseException):
    """Ends a run as a signal would."""


def killed_at(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that ends the run at one of its calls, and else does what another one does."""
    calls = count(1)

    def killed(*given: Any) -> Any:
        if next(calls) == number:
            raise Killed
        return function(*given)

    return killed


def text_model(folder: Path, lines: int, case: str = "llama") -> Path:
    """Write a network, ``dense``, and so many lines of text for it, ``text.txt``, into a folder."""
    directory(folder / "dense", case)
    texts = np.random.default_rng(0).choice(WORDS, (lines, 8))
    (folder / "text.txt").write_text("\n".join(" ".join(row) for row in texts))
    return folder


def prune_text_model(
    folder: Path, target: Path, calibration: dict[str, Any], **options: Any
) -> rmtcli.Report:
    """Prune what :func:`text_model` wrote, calibrated on its text with more settings."""
    values = {"selection": Selection(min_side=8), **options}
    return rmtcli.prune(
        folder / "dense",
        target,
        budget=Budget("70%"),
        calibration=Calibration(folder / "text.txt", **calibration),
        evaluation=Evaluation(task="causal-lm:length=16"),
        **values,
    )


def samples(case: str) -> np.ndarray:
    """Twelve samples; texts, and targets of another length, have padding."""
    rng = np.random.default_rng(0)
    if case == "vit":
        return rng.standard_normal((12, 3, 16, 16)).astype(np.float32)
    texts = np.zeros((12, 4 if case == "t5" else 2, 10), np.int64)
    for i, length in enumerate(rng.integers(4, 10, 12)):
        texts[i, 0::2, :length] = rng.integers(5, 90, (texts.shape[1] // 2, length))
        texts[i, 1::2, :length] = 1
    return texts


def run(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    outputs = model(inputs)
    assert isinstance(outputs, torch.Tensor)
    return outputs


def half_ranks(
    harness: Harness, dense: torch.nn.Module, inputs: np.ndarray, folder: Folder
) -> tuple[Mapping[str, Sequence[str]], Iterator[tuple[LayerPlan, MetricDecomposition]]]:
    """The modules of layers, and plans of half the rank, whose maps are stored in the folder."""
    every = find_layers(harness.checkpoint, Selection(min_side=8))
    layers = [x for x in every if isinstance(x, Layer) and not x.head and not x.view.kernel]
    modules = modules_of(dense, harness.checkpoint, layers)
    names = [name for layer in layers for name in modules[layer.name]]
    watch = Watch(masks=partial(masks_of, dense))
    options: dict[str, Any] = {"batch": 6, "start": softmax_root, "watch": watch}
    moments = collect(dense, inputs, names, run, draws=0, **options)

    def plans() -> Iterator[tuple[LayerPlan, MetricDecomposition]]:
        for layer in layers:
            first = modules[layer.name][0]
            if first not in moments:
                continue
            biased = getattr(dense.get_submodule(first), "bias", None) is not None
            maps = LayerCalibration(moments[first], biased, False).decompose(layer.load())
            StoredDecomposition.put(folder, layer, maps)
            yield cast(LayerPlan, SimpleNamespace(layer=layer, rank=min(layer.shape) // 2)), maps

    return modules, plans()
