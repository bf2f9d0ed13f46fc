"""What pruning does to the time that a network takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rmtcli.checkpoint import Checkpoint
from rmtcli.errors import UsageError
from rmtcli.evaluation import Harness
from rmtcli.planning import Latency, LayerPlan
from rmtcli.report.base import Report

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn


def check_batches(batches: Sequence[int]) -> None:
    """Refuse batches that cannot be run.

    Raises:
        UsageError: one of no samples.
    """
    if any(batch < 1 for batch in batches):
        raise UsageError("--batch must be at least 1")


def timed(
    report: Report,
    batches: Sequence[int],
    device: str,
    networks: tuple[Harness, Checkpoint] | None = None,
) -> Report:
    """The report with measured times.

    Args:
        report: every layer's fate.
        batches: for each, all linear layers are run alone on so many rows.
        device: where layers and networks run.
        networks: the dense network's harness and the pruned checkpoint; both networks run as a
            whole where the harness has samples.

    Raises:
        UsageError: the device cannot be used.
    """
    if not batches:
        return report
    from rmtcli.running.clock import Clock, network_seconds

    run = None if networks is None else _networks(*networks)
    found = []
    for batch in sorted(set(batches)):
        clock = Clock(batch, device)
        layers = {
            plan.layer.name: clock.pair(plan.layer.shape, _rank(plan), plan.layer.dtype)
            for plan in report.layers
            if plan.layer.linear
        }
        whole = None
        if run is not None:
            models, inputs = run
            before, after = network_seconds(models, inputs, batch, device)
            whole = before, after
        found.append(Latency(batch, device, clock.threads, layers, whole))
    return replace(report, latency=tuple(found))


def _rank(plan: LayerPlan) -> int | None:
    """Rank of a layer that runs as two factors."""
    return plan.rank if plan.untouched is None and plan.layout.splits else None


def _networks(
    harness: Harness, pruned: Checkpoint
) -> tuple[list[nn.Module], NDArray[np.generic]] | None:
    """Networks that can be run, and what to run them on."""
    if harness.samples is None:
        return None
    from rmtcli.evaluation.network import build

    return [build(harness), build(harness, pruned)], harness.samples.inputs
