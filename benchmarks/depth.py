"""Time of --sequential and memory of --heal against depth: docs/benchmarks-speed.md.

    python -m benchmarks.depth [--depth 6 12 24 48]

An MLP and a small transformer have random weights, and for --sequential every layer half of its
rank. Healing's memory is that of the tensors which one step keeps for its backward pass, and of
what it keeps between steps. Prints Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.networks import print_row
from rmtcli.evaluation import Rows
from rmtcli.running.again import computed_again, kept
from rmtcli.running.batches import BATCH as HEALED
from rmtcli.running.distill import DistillationLoss
from rmtcli.running.resume import Course
from rmtcli.running.sequential import RefitStep, Target, refit
from rmtcli.spectra import Factors

WIDTH, TOKENS, SAMPLES, BATCH = 128, 4, 1024, 256
#: Numbers per token.
SIDE = WIDTH // TOKENS


class Block(nn.Module):
    """Attention and an MLP with residual connections, on a few tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(SIDE, SIDE) for _ in range(4))
        self.up, self.down = nn.Linear(SIDE, 2 * SIDE), nn.Linear(2 * SIDE, SIDE)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens after the block."""
        scores = self.query(x) @ self.key(x).transpose(1, 2) / SIDE**0.5
        x = x + self.out(scores.softmax(-1) @ self.value(x))
        return x + self.down(torch.relu(self.up(x)))


class Transformer(nn.Module):
    """Blocks one after another; the output is the last block's, as one vector."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """Return one vector per sample."""
        x = x.unflatten(1, (TOKENS, SIDE))
        for block in self.blocks:
            x = block(x)
        return x.flatten(1)


def mlp(depth: int) -> nn.Module:
    """Linear layers with ReLUs between them."""
    layers = (nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(depth))
    return nn.Sequential(*layers)


def seconds(model: nn.Module) -> float:
    """Time of a sequential fit of all linear layers."""
    dense, pruned = model.eval(), deepcopy(model)
    layers = {name: m for name, m in dense.named_modules() if isinstance(m, nn.Linear)}
    steps = {
        name: RefitStep(
            [name],
            min(m.weight.shape) // 2,
            partial(Target, m.weight.detach().numpy(), True, None),
        )
        for name, m in layers.items()
    }

    def put(name: str, factors: Factors) -> None:
        weight = pruned.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        with torch.no_grad():
            weight.copy_(torch.from_numpy(factors.product))

    inputs = np.random.default_rng(0).standard_normal((SAMPLES, WIDTH)).astype(np.float32)
    start = time.process_time()
    refit(dense, pruned, steps, inputs, lambda m, x: m(x), put, batch=BATCH)
    return time.process_time() - start


def megabytes(depth: int, *, again: bool) -> tuple[float, float]:
    """What a step of healing keeps for its backward pass, and what is kept between steps."""
    dense = Transformer(depth).eval()
    pruned = deepcopy(dense)
    dense.requires_grad_(False)
    inputs = np.random.default_rng(0).standard_normal((HEALED, WIDTH)).astype(np.float32)
    loss = DistillationLoss(dense, pruned, inputs, lambda m, x: m(x), rows=Rows.VECTORS)
    with computed_again(pruned) if again else nullcontext():
        backward = kept(lambda: loss(torch.arange(HEALED), torch.Generator()), pruned)
    # Weights, gradients, and the two means of Adam.
    between = 4 * 4 * sum(p.numel() for p in pruned.parameters())
    return backward / 1e6, between / 1e6


def main() -> None:
    """Time networks of several depths, with states kept and without, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--depth", type=int, nargs="+", default=[6, 12, 24, 48])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print_row("network", "runs", *(f"{depth} blocks" for depth in arguments.depth))
    print_row(*["---"] * (2 + len(arguments.depth)))
    for title, make in (("MLP", mlp), ("transformer", Transformer)):
        seconds(make(2))  # what is done once in a process
        kept = [seconds(make(depth)) for depth in arguments.depth]
        with patch.object(Course, "move", lambda *_: None):
            whole = [seconds(make(depth)) for depth in arguments.depth]
        print_row(title, "from kept states", *(f"{s:.2f} s" for s in kept))
        print_row(title, "from the start", *(f"{s:.2f} s" for s in whole))
    print()
    print_row("healing keeps", *(f"{depth} blocks" for depth in arguments.depth))
    print_row(*["---"] * (1 + len(arguments.depth)))
    print_memory("for the backward pass", arguments.depth, 0)
    print_memory("the same, blocks computed again", arguments.depth, 0, again=True)
    print_memory("between steps", arguments.depth, 1)


def print_memory(title: str, depths: Sequence[int], which: int, *, again: bool = False) -> None:
    """Print one row of the table of healing's memory."""
    print_row(title, *(f"{megabytes(depth, again=again)[which]:.1f} MB" for depth in depths))


if __name__ == "__main__":
    main()
