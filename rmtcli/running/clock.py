"""Measure how long layers and networks take to run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.computing.device import using
from rmtcli.layers import Layer
from rmtcli.layouts import Layout
from rmtcli.planning import Times, Timing

#: Least and largest number of rounds, and seconds after which no further round begins.
_ROUNDS, _SECONDS = (5, 25), 0.5
#: Seconds for which a function is called repeatedly per round, far above the clock's own error.
_BLOCK = 0.002
#: Ranks at which a layer is timed, as shares of the largest that its layout may give it.
_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)


@torch.inference_mode()
def timed(runs: Sequence[Callable[[], object]], device: str) -> list[Timing]:
    """Seconds per call of each function, with the functions measured in turns.

    A machine's speed changes while it is measured, so functions that are compared take turns. The
    first call of each is not counted.

    Args:
        runs: the functions.
        device: device to wait for before the clock is read.
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
    seconds: list[list[float]] = [[] for _ in runs]
    start, least, most = time.perf_counter(), *_ROUNDS
    for done in range(most):
        if done >= least and time.perf_counter() - start > _SECONDS:
            break
        for times, run, count in zip(seconds, runs, calls, strict=True):
            times.append(block(run, count))
    return [Timing.of(times) for times in seconds]


class Clock:
    """Times linear layers with random weights; each shape, rank and type is measured once.

    Args:
        batch: number of samples.
        device: device to run on.
        uses: number of rows that a layer has per sample, such as the tokens of a text.

    Raises:
        UsageError: the device cannot be used.
    """

    def __init__(
        self, batch: int, device: str, uses: Callable[[Layer], float] = lambda layer: 1.0
    ) -> None:
        self.batch, self.device, self.threads = batch, device, torch.get_num_threads()
        self._uses = uses
        self._pairs: dict[object, tuple[Timing, Timing]] = {}
        self._times: dict[object, Times] = {}
        with using(device):
            torch.zeros(1, device=device)

    def pair(self, layer: Layer, layout: Layout, rank: int | None) -> tuple[Timing, Timing]:
        """Times of a dense layer and of the pruned one; the dense time twice if rank is None."""
        key = (layer.shape, layer.dtype, layout, rank, self._rows(layer))
        if key not in self._pairs:
            ranks = [] if rank is None else [rank]
            timings = timed(self._runs(layer, layout, ranks), self.device)
            self._pairs[key] = timings[0], timings[-1]
        return self._pairs[key]

    def times(self, layer: Layer, layout: Layout) -> Times:
        """Seconds of a dense layer, and a fit of the seconds of the layer at any rank."""
        key = (layer.shape, layer.dtype, layout, self._rows(layer))
        if key not in self._times:
            most = layout.largest_rank(*layer.shape)
            ranks = sorted({_aligned(round(share * most)) for share in _SHARES})
            timings = timed(self._runs(layer, layout, ranks), self.device)
            dense, *seconds = (timing.median for timing in timings)
            macs = [layout.values(*layer.shape, rank) for rank in ranks]
            if len(ranks) < 2:
                macs, seconds = [*macs, macs[0] + 1], [*seconds, seconds[0]]
            self._times[key] = Times.fit(dense, macs, seconds)
        return self._times[key]

    def _rows(self, layer: Layer) -> int:
        """The rows that a layer has of all samples."""
        return max(1, round(self.batch * self._uses(layer)))

    def _runs(
        self, layer: Layer, layout: Layout, ranks: Sequence[int]
    ) -> list[Callable[[], object]]:
        kind = getattr(torch, TYPES[layer.dtype].word)
        random = torch.Generator().manual_seed(0)
        out, inputs = layer.shape
        x = torch.randn(self._rows(layer), inputs, generator=random).to(self.device, kind)
        dense = nn.Linear(inputs, out, device=self.device, dtype=kind)
        modules = [dense, *(layout.example(dense, rank) for rank in ranks)]
        for parameter in (p for module in modules for p in module.parameters()):
            parameter.data = torch.randn(parameter.shape, generator=random).to(parameter)
        return [partial(module, x) for module in modules]


def _aligned(rank: int) -> int:
    """The rank at which a layer is timed: a multiple of 8, as ranks under a budget of time are."""
    return rank - rank % 8 if rank >= 64 else max(1, rank)


def network_seconds(
    networks: Sequence[nn.Module], inputs: NDArray[Any], batch: int, device: str
) -> list[Timing]:
    """Seconds per forward pass of each network, on the first ``batch`` samples.

    Args:
        networks: networks in evaluation mode, on their device.
        inputs: shape (samples, …); repeated if there are fewer than ``batch`` samples.
        batch: number of samples per forward pass.
        device: the networks' device.
    """
    x = torch.from_numpy(inputs[np.arange(batch) % len(inputs)]).to(device)
    if x.is_floating_point():
        x = x.to(next(networks[0].parameters()).dtype)
    return timed([partial(network, x) for network in networks], device)


def _wait(device: str) -> None:
    """Block until all work submitted to a device is done."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()
