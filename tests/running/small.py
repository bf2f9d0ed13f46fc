"""Small networks of several architectures, and inputs for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rmtcli.checkpoint import open_checkpoint
from rmtcli.evaluation import Evaluation, Harness
from tests.integrations.factored import CASES, tokenizer

TASKS = {"bert": "sentence-embedding", "vit": None, "t5": None}


def directory(folder: Path, case: str) -> Harness:
    CASES[case].model().save_pretrained(folder)
    tokenizer(24).save_pretrained(folder)
    return Evaluation(task=TASKS.get(case)).resolve(open_checkpoint(folder))


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
