"""A backward pass that computes the values within blocks again: equal gradients, less memory."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rmtcli.evaluation import Rows
from rmtcli.evaluation.pretrained import Pretrained
from rmtcli.evaluation.tasks import CausalLM
from rmtcli.running import again
from rmtcli.running.descent import Extent
from rmtcli.running.distill import DistillationLoss, distill
from tests.integrations.factored import CASES

WIDTH = 32


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return x + scale * self.down(torch.tanh(self.up(x)))


class Deep(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, scale=0.5)
        outputs: Tensor = self.head(x)
        return outputs


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    model(x).square().mean().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_memory_is_that_of_one_block_and_gradients_are_equal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Files go with the graph."""
    monkeypatch.setattr(again, "SMALL", 0)
    monkeypatch.setattr(again.tempfile, "tempdir", str(tmp_path))
    torch.manual_seed(0)
    x, sizes = torch.randn(64, WIDTH), []
    for depth in (4, 12):
        model = Deep(depth)
        expected = gradients(model, x)
        whole = again.kept(lambda model=model: model(x).sum(), model)
        with again.computed_again(model):
            outputs = model(x).sum()
            (folder,) = tmp_path.iterdir()
            assert len(list(folder.iterdir())) == depth
            del outputs
            assert not list(folder.iterdir())
            sizes.append(again.kept(lambda model=model: model(x).sum(), model))
            assert all(map(torch.equal, gradients(model, x), expected))
        assert not list(tmp_path.iterdir())
        assert sizes[-1] < whole / depth
        assert all("forward" not in vars(block) for block in model.blocks)
    assert sizes[0] == sizes[1]


def test_a_language_model_caches_nothing_that_is_computed_again() -> None:
    model = Pretrained(CASES["llama"].model(), CausalLM(), CausalLM().head(Path()), segments=False)
    tokens = torch.randint(3, 90, (2, 1, 12))
    inputs = torch.cat([tokens, torch.ones_like(tokens)], 1)
    expected = gradients(model, inputs)
    with again.computed_again(model):
        assert not model.network.config.use_cache
        assert all(map(torch.equal, gradients(model, inputs), expected))
    assert model.network.config.use_cache


def test_large_steps_are_taken_so_and_give_the_same_network(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("rmtcli"), "propagate", True)  # a command unsets it
    torch.manual_seed(0)
    dense, start = Deep(3), Deep(3)
    inputs = np.random.default_rng(0).standard_normal((40, WIDTH)).astype(np.float32)
    networks = []
    for room in (again.ROOM, 0):
        monkeypatch.setattr("rmtcli.running.distill.ROOM", room)
        pruned = copy.deepcopy(start)
        loss = DistillationLoss(dense, pruned, inputs, lambda m, x: m(x), rows=Rows.CLASSES)
        with caplog.at_level("INFO", "rmtcli"):
            distill(loss, [(p, 0.1) for p in pruned.parameters()], Extent(2, 0), start=0.0)
        assert ("within blocks again" in caplog.text) == (room == 0)
        networks.append(pruned.state_dict())
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])
    assert not torch.equal(networks[0]["head.weight"], start.head.weight)
