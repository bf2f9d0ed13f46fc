"""Networks that run from kept states: the same factors in fewer steps."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rmtcli.running.resume import Course
from rmtcli.running.sequential import RefitStep, Target, refit
from rmtcli.spectra import Factors


class Counted(nn.Linear):
    """A linear layer that counts the samples that it computes."""

    samples = 0

    def forward(self, x: Tensor) -> Tensor:
        Counted.samples += len(x)
        return super().forward(x)


class Block(nn.Module):
    """Two branches with a residual connection, which returns a tuple as blocks of models do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = (Counted(12, 12) for _ in range(3))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, scale: float) -> tuple[Tensor, None]:
        return x + scale * self.out(self.act(self.a(x)) * torch.sigmoid(self.b(x))), None


class Blocks(nn.Module):
    """Blocks one after another, on embedded inputs."""

    def __init__(self, depth: int = 5) -> None:
        super().__init__()
        self.stem, self.head = Counted(6, 12), Counted(12, 3)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, scale=0.5)[0]
        return self.head(x)


class Skips(nn.Module):
    """A network whose last layer needs the first one's outputs too: a U-Net in small."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = Counted(6, 8), Counted(8, 8), Counted(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(torch.cat([x, torch.relu(self.middle(x))], -1))


def chain() -> nn.Module:
    sizes = (6, 10, 8, 10, 3)
    layers = [Counted(a, b) for a, b in pairwise(sizes)]
    acts = [nn.ReLU(inplace=True) for _ in layers]
    return nn.Sequential(*(m for pair in zip(layers, acts, strict=True) for m in pair))


def refitted(model: nn.Module) -> tuple[dict[str, Factors], int]:
    """The new factors of all linear layers, and how many samples went through these layers."""
    dense, pruned = model.eval(), deepcopy(model)
    layers = {n: m for n, m in dense.named_modules() if isinstance(m, nn.Linear)}
    steps = {
        n: RefitStep([n], 3, partial(Target, m.weight.detach().numpy(), True, None))
        for n, m in layers.items()
    }
    factors: dict[str, Factors] = {}
    Counted.samples = 0

    def put(name: str, new: Factors) -> None:
        factors[name] = new
        weight = pruned.get_submodule(name).weight
        with torch.no_grad():
            weight.copy_(torch.from_numpy(new.product))

    inputs = np.random.default_rng(0).standard_normal((20 * 64, 6)).astype(np.float32)
    refit(dense, pruned, steps, inputs, lambda m, x: m(x), put, batch=64)
    return factors, Counted.samples


@pytest.mark.parametrize("make", [chain, Blocks, Skips])
def test_kept_states_change_no_factor(
    make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = make()
    state = deepcopy(model.state_dict())
    kept, runs = refitted(deepcopy(model))
    with monkeypatch.context() as context:
        context.setattr(Course, "move", lambda *_: None)
        whole, more = refitted(deepcopy(model))
    assert list(kept) == list(whole)
    for name, factors in kept.items():
        np.testing.assert_allclose(factors.product, whole[name].product, rtol=1e-6, atol=1e-8)
    assert runs < more or make is Skips  # where nothing can be skipped, trying costs a little
    assert runs < 1.2 * more
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_the_work_grows_with_the_depth_and_not_with_its_square() -> None:
    torch.manual_seed(0)
    _, few = refitted(Blocks(4))
    _, many = refitted(Blocks(12))
    assert many < 3.6 * few


def test_states_too_large_for_memory_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    _, few = refitted(Blocks(4))
    monkeypatch.setattr("rmtcli.running.resume.MOST", 1)
    torch.manual_seed(0)
    _, many = refitted(Blocks(4))
    assert many > 1.5 * few


def test_networks_run_as_before_afterwards() -> None:
    model = Blocks().eval()
    before = model(torch.ones(2, 6))
    refitted(model)
    assert not any("forward" in module.__dict__ for module in model.modules())
    torch.testing.assert_close(model(torch.ones(2, 6)), before)
