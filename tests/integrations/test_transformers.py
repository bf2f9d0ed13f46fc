"""Factored directories through every door of transformers."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

import rmtcli.integrations.transformers
from rmtcli.integrations.rmtcli_loading import FactoredLinear
from tests.integrations.factored import CASES, Case, load, logits, write

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Factored and product directory of each architecture."""
    return {name: write(case, tmp_path_factory.mktemp(name)) for name, case in CASES.items()}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def opened(request, directories, case):
    return directories[request.node.callspec.params["case"]]


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    # float32 rounds at 6e-8; a few dozen sums of some fifty terms stay well below 1e-5.
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_loads(case, opened) -> None:
    factored, product = opened
    model = load(factored, case)
    close(logits(model, case), logits(load(product, case), case))
