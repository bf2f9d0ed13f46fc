"""The layers among which a budget is divided, with the cost of each of their ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rmtcli.calibration import ByLayer
from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.errors import UsageError
from rmtcli.keep import Untouched
from rmtcli.layers import Layer
from rmtcli.layouts import undivided
from rmtcli.planning.allocate import RankOptions, allocate
from rmtcli.planning.fit import Fitted, LayerCalibration
from rmtcli.planning.goal import Goal
from rmtcli.planning.times import Times


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """The layers among which a budget is divided.

    Attributes:
        groups: layers that get one rank; a group has several layers if they share a right factor.
        options: for each group, the ranks that it can get, their losses and their costs.
        total: cost of the dense model, other layers included.
    """

    groups: Sequence[Sequence[Fitted]]
    options: Sequence[RankOptions]
    total: int

    @property
    def least(self) -> int:
        """Cost of the model with each of these layers at its cheapest rank."""
        return self.total - sum(options.dense - options.least for options in self.options)

    @property
    def at_edge(self) -> int:
        """Cost of the model with each of these layers at its edge rank, where that is cheaper."""
        cost = self.total
        for group, options in zip(self.groups, self.options, strict=True):
            ranks = options.ranks
            if len(ranks):
                spikes = max(item.spikes for item in group)
                index = np.searchsorted(ranks, spikes).clip(0, len(ranks) - 1)
                cost -= options.dense - options.cost(int(ranks[index]))
        return cost

    def ranks(self, size: int) -> dict[str, int | Untouched]:
        """The best ranks, by layer name, for a model that costs at most ``size``.

        Raises:
            ValueError: the cheapest ranks cost more.
        """
        fixed = self.total - sum(options.dense for options in self.options)
        ranks = allocate(self.options, size - fixed)
        return {
            item.layer.name: Untouched.BUDGET if rank is None else rank
            for group, rank in zip(self.groups, ranks, strict=True)
            for item in group
        }


def allocation_of(
    checkpoint: Checkpoint,
    fitted: Sequence[Fitted],
    calibrations: ByLayer[LayerCalibration] | None,
    goal: Goal,
) -> Allocation:
    """The layers that share a budget of parameters, bytes or multiply-adds.

    Args:
        checkpoint: the dense network.
        fitted: its layers, with their approximations.
        calibrations: by layer name, or None if nothing was calibrated.
        goal: the unit of its budget, parameters if it has none, and the multiple of all ranks.

    Raises:
        UsageError: a budget of multiply-adds for convolutions that were not calibrated, so that
            the number of their output positions is not known.
    """
    unit = "parameters" if goal.budget is None else goal.budget.unit
    free = [item for item in fitted if not outside_budget(item, calibrations)]

    def price(item: Fitted) -> int:
        """Cost of one weight of a layer."""
        if unit == "bytes":
            return item.layer.copies * TYPES[item.layer.dtype].width
        if unit == "macs":
            if calibrations is None:
                return 1
            return max(1, round(calibrations[item.layer.name].moments.uses))
        return item.layer.copies

    if unit == "bytes":
        total = checkpoint.bytes
    elif unit == "macs":
        others = [item for item in fitted if outside_budget(item, calibrations)]
        total = sum(item.layer.size for item in others)
        total += sum(price(item) * item.layer.size for item in free)
    else:
        total = checkpoint.parameters
    if unit == "macs" and calibrations is None:
        _refuse_uncounted(checkpoint, free)
    groups = _groups(free)
    options = [options_by_weights(group, price(group[0]), goal.rank_multiple) for group in groups]
    return Allocation(groups, options, total)


def _refuse_uncounted(checkpoint: Checkpoint, items: Sequence[Fitted]) -> None:
    kernels = [item.layer.name for item in items if item.layer.view.kernel]
    if kernels:
        raise UsageError(
            f"{checkpoint.path}: {kernels[0]} is a convolution, whose multiply-adds depend on the "
            "size of its input: give inputs with --calib, or leave out --conv"
        )


def timed_allocation(
    checkpoint: Checkpoint,
    fitted: Sequence[Fitted],
    calibrations: ByLayer[LayerCalibration] | None,
    goal: Goal,
    times: Callable[[Layer], Times],
) -> Allocation:
    """The layers that share a budget of time, in nanoseconds.

    Args:
        checkpoint: the dense network.
        fitted: its layers, with their approximations. The time of linear layers that stay as they
            are counts too.
        calibrations: by layer name, or None if nothing was calibrated.
        goal: the multiple of all ranks.
        times: measures a layer.

    Raises:
        UsageError: one of the layers is a convolution, whose time is not known.
    """
    free = [item for item in fitted if not outside_budget(item, calibrations)]
    for item in free:
        if not item.layer.linear:
            raise UsageError(
                f"{checkpoint.path}: {item.layer.name} is a convolution, and a latency budget is "
                "divided among linear layers only: leave out --conv"
            )
    total = sum(_nanoseconds(times(item.layer).dense) for item in fitted if item.layer.linear)
    options = [options_by_time(item, times(item.layer), goal.rank_multiple) for item in free]
    return Allocation([[item] for item in free], options, total)


def options_by_weights(group: Sequence[Fitted], price: int, multiple: int = 1) -> RankOptions:
    """The ranks of a group, if the cost is the number of weights times a price.

    Args:
        group: layers that share a right factor, or one layer. Layers that share one have one
            approximation, and one price.
        price: cost of one weight: its copies, its bytes or its uses.
        multiple: ranks are multiples of it.
    """
    approximation, inputs = group[0].approximation, group[0].layer.shape[1]
    assert approximation is not None
    outputs = sum(item.layer.shape[0] for item in group)
    step, dense = price * (outputs + inputs), price * outputs * inputs
    return RankOptions(approximation.losses, step, dense, multiple=multiple)


def options_by_time(item: Fitted, times: Times, multiple: int = 1) -> RankOptions:
    """The ranks of a layer, if the cost is time; its size may not grow either."""
    assert item.approximation is not None
    dense, fixed, step = (_nanoseconds(t) for t in (times.dense, times.fixed, times.step))
    return RankOptions(
        item.approximation.losses,
        max(step, 1),
        dense,
        multiple=multiple,
        fixed=fixed,
        most=item.layer.break_even_rank,
    )


def _nanoseconds(seconds: float) -> int:
    """A time as a whole number, which a budget is divided in."""
    return round(1e9 * seconds)


def _groups(items: Sequence[Fitted]) -> list[list[Fitted]]:
    """Layers that share a right factor together, each other layer alone."""
    groups: dict[str, list[Fitted]] = {}
    for item in items:
        groups.setdefault(item.group or item.layer.name, []).append(item)
    return list(groups.values())


def outside_budget(
    item: Fitted, calibrations: ByLayer[LayerCalibration] | None
) -> Untouched | None:
    """Why a layer has no part in a budget; a layer that cannot be split saves nothing."""
    stays = None if item.layer.view.splits else undivided(item.layer)
    return without_rank(item, calibrations) or stays


def without_rank(item: Fitted, calibrations: ByLayer[LayerCalibration] | None) -> Untouched | None:
    """Why no rank is chosen for a layer, by a rule or under a budget."""
    if item.layer.head:
        return Untouched.NARROW if item.layer.narrow else Untouched.HEAD
    return uncalibrated(item, calibrations)


def uncalibrated(item: Fitted, calibrations: ByLayer[LayerCalibration] | None) -> Untouched | None:
    """Why a layer has no calibration where others have one."""
    if calibrations is None or item.layer.name in calibrations:
        return None
    return calibrations.missing.get(item.layer.name, Untouched.NO_DATA)
