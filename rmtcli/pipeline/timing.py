"""Forward times of the layers and of the network, before and after pruning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rmtcli.checkpoint import Checkpoint
from rmtcli.computing.steps import tracked
from rmtcli.errors import UsageError
from rmtcli.layers import Layer
from rmtcli.options import option
from rmtcli.planning import Latency, LayerCalibration, LayerPlan, Timing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from rmtcli.evaluation import Harness
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
    calibrations: Mapping[str, LayerCalibration] | None = None,
) -> tuple[Latency, ...]:
    """Measure forward times, one value per batch, smallest batch first.

    Args:
        layers: the plan of every layer; each linear layer is run alone, dense and as planned.
        batches: for each, the rows of so many samples are given to a layer, and the samples to a
            network.
        device: where layers and networks run.
        networks: the dense network's harness and the pruned checkpoint; both networks run as a
            whole where the harness has samples.
        calibrations: by layer name; they know how many rows a sample has.

    Raises:
        UsageError: the device cannot be used.
    """
    if not batches:
        return ()
    from rmtcli.running.clock import Clock, network_seconds

    built = None if networks is None else _built(*networks)
    times, linear = [], [plan for plan in layers if plan.layer.linear]
    for batch in sorted(set(batches)):
        clock = Clock(batch, device, uses_of(calibrations))
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


def uses_of(calibrations: Mapping[str, LayerCalibration] | None) -> Callable[[Layer], float]:
    """The number of rows that each layer has per sample; 1 for one that was not calibrated."""
    known = {} if calibrations is None else calibrations

    def uses(layer: Layer) -> float:
        calibration = known.get(layer.name)
        return 1.0 if calibration is None else calibration.moments.uses

    return uses


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
