"""Measuring how long layers and networks take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rmtcli.computing.device import using
from rmtcli.layers import break_even
from rmtcli.planning import Times

#: Rounds at least and at most, and seconds after which no more are begun.
_ROUNDS, _SECONDS = (5, 25), 0.5
#: Seconds that calls are repeated for in a round: a clock's own error is far below.
_BLOCK = 0.002
#: Ranks that a layer's times are fitted to, as shares of its break-even rank.
_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
_TYPES = {"F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16}

Shape = tuple[int, int]


@torch.inference_mode()
def medians(runs: Sequence[Callable[[], object]], device: str) -> list[float]:
    """Median seconds of a call of each function, measured in turns.

    Turns, because a machine's speed changes while it is measured: what is compared runs side by
    side. The first calls are not counted.
    """

    def block(run: Callable[[], object], calls: int) -> float:
        _wait(device)
        start = time.perf_counter()
        for _ in range(calls):
            run()
        _wait(device)
        return (time.perf_counter() - start) / calls

    for run in runs:
        run()
    calls = [max(1, int(_BLOCK / max(block(run, 1), 1e-7))) for run in runs]
    found: list[list[float]] = [[] for _ in runs]
    start, least, most = time.perf_counter(), *_ROUNDS
    for done in range(most):
        if done >= least and time.perf_counter() - start > _SECONDS:
            break
        for times, run, count in zip(found, runs, calls, strict=True):
            times.append(block(run, count))
    return [statistics.median(times) for times in found]


class Clock:
    """Times of linear layers with random values, each kind of layer measured once.

    Args:
        batch: rows of the input.
        device: where to run.

    Raises:
        UsageError: the device cannot be used.
    """

    def __init__(self, batch: int, device: str) -> None:
        self.batch, self.device, self.threads = batch, device, torch.get_num_threads()
        self._pairs: dict[object, tuple[float, float]] = {}
        self._times: dict[object, Times] = {}
        with using(device):
            torch.zeros(1, device=device)

    def pair(self, shape: Shape, rank: int | None, dtype: str) -> tuple[float, float]:
        """Seconds of a layer as it is, and of its factors; twice the same where rank is None."""
        key = (shape, rank, dtype)
        if key not in self._pairs:
            ranks = [] if rank is None else [rank]
            found = medians(self._runs(shape, ranks, dtype), self.device)
            self._pairs[key] = found[0], found[-1]
        return self._pairs[key]

    def times(self, shape: Shape, dtype: str) -> Times:
        """What a layer takes as it is, and what factors of any rank are expected to take."""
        key = (shape, dtype)
        if key not in self._times:
            most = break_even(*shape)
            ranks = sorted({max(1, round(share * most)) for share in _SHARES})
            dense, *seconds = medians(self._runs(shape, ranks, dtype), self.device)
            if len(ranks) < 2:
                ranks, seconds = [*ranks, ranks[0] + 1], [*seconds, seconds[0]]
            self._times[key] = Times.fit(dense, ranks, seconds)
        return self._times[key]

    def _runs(self, shape: Shape, ranks: Sequence[int], dtype: str) -> list[Callable[[], object]]:
        kind = _TYPES.get(dtype, torch.float32)
        random = torch.Generator().manual_seed(0)

        def drawn(*size: int) -> Tensor:
            return torch.randn(*size, generator=random).to(self.device, kind)

        out, inputs = shape
        x, bias = drawn(self.batch, inputs), drawn(out)

        def factored(right: Tensor, left: Tensor) -> Tensor:
            return nn.functional.linear(nn.functional.linear(x, right), left, bias)

        runs: list[Callable[[], object]] = [
            partial(nn.functional.linear, x, drawn(out, inputs), bias)
        ]
        runs += [partial(factored, drawn(r, inputs), drawn(out, r)) for r in ranks]
        return runs


def network_seconds(
    networks: Sequence[nn.Module], inputs: NDArray[Any], batch: int, device: str
) -> list[float]:
    """Median seconds of each network on the first samples; few samples are taken repeatedly.

    Args:
        networks: in evaluation mode, on their device.
        inputs: shape (samples, …), which they are known to take.
        batch: samples that run at a time.
        device: where.
    """
    x = torch.from_numpy(inputs[np.arange(batch) % len(inputs)]).to(device)
    if x.is_floating_point():
        x = x.to(next(networks[0].parameters()).dtype)
    return medians([partial(network, x) for network in networks], device)


def _wait(device: str) -> None:
    """Until all work that was given to a device is done."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()
