"""Forward times of the layers and of the network, before and after pruning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rmtcli.checkpoint import Checkpoint
from rmtcli.computing.steps import tracked
from rmtcli.errors import UsageError
from rmtcli.evaluation import Harness
from rmtcli.options import option
from rmtcli.planning import Latency, LayerPlan, Timing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from rmtcli.running.clock import Clock


def check_batches(batches: Sequence[int]) -> None:
    """Refuse batches that cannot be run.

    Raises:
        UsageError: a batch without samples.
    """
    if any(batch < 1 for batch in batches):
        raise UsageError(f"{option('batch')} must be at least 1")


def time_layers(
    layers: Sequence[LayerPlan],
    batches: Sequence[int],
    device: str,
    networks: tuple[Harness, Checkpoint] | None = None,
) -> tuple[Latency, ...]:
    """Measure forward times, one value per batch, smallest batch first.

    Args:
        layers: the plan of every layer; each linear layer is run alone, dense and as planned.
        batches: for each, so many rows are given to a layer, and so many samples to a network.
        device: where layers and networks run.
        networks: the dense network's harness and the pruned checkpoint; both networks run as a
            whole where the harness has samples.

    Raises:
        UsageError: the device cannot be used.
    """
    if not batches:
        return ()
    from rmtcli.running.clock import Clock, network_seconds

    built = None if networks is None else _built(*networks)
    times, linear = [], [plan for plan in layers if plan.layer.linear]
    for batch in sorted(set(batches)):
        clock = Clock(batch, device)
        seconds = {
            plan.layer.name: _pair(clock, plan)
            for plan in tracked(linear, f"timing at batch {batch}")
        }
        whole = None
        if built is not None:
            models, inputs = built
            before, after = network_seconds(models, inputs, batch, device)
            whole = before, after
        times.append(Latency(batch, device, clock.threads, seconds, whole))
    return tuple(times)


def _pair(clock: Clock, plan: LayerPlan) -> tuple[Timing, Timing]:
    """Times of a layer before and after."""
    if plan.narrowed is None:
        return clock.pair(plan.layer, plan.layout, _rank(plan))
    before, _ = clock.pair(plan.layer, plan.layout, None)
    _, after = clock.pair(replace(plan.layer, shape=plan.narrowed), plan.layout, _rank(plan))
    return before, after


def _rank(plan: LayerPlan) -> int | None:
    """The rank of a layer that runs as two factors; None for a dense layer."""
    return plan.rank if plan.untouched is None and plan.layout.splits else None


def _built(
    harness: Harness, pruned: Checkpoint
) -> tuple[list[nn.Module], NDArray[np.generic]] | None:
    """Networks that can be run, and the samples to run them on; None without samples."""
    if harness.samples is None:
        return None
    from rmtcli.evaluation.network import build

    return [build(harness), build(harness, pruned)], harness.samples.inputs
