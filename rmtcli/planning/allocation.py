"""The layers among which a budget is divided, with the cost of each of their ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rmtcli.checkpoint import Checkpoint
from rmtcli.errors import UsageError
from rmtcli.keep import Untouched
from rmtcli.layers import Layer
from rmtcli.layouts import Factored, Layout, choices_for, undivided
from rmtcli.options import option
from rmtcli.planning.allocate import RankOptions, allocate
from rmtcli.planning.costs import Costs, cheapest, losses_of
from rmtcli.planning.fit import Fitted, LayerCalibration
from rmtcli.planning.goal import Goal
from rmtcli.planning.times import NOISE, Times

if TYPE_CHECKING:
    from rmtcli.calibration import ByLayer


@dataclass(frozen=True, slots=True, eq=False)
class Division:
    """The best division of a budget.

    Attributes:
        ranks: the rank of each layer that has a part in the budget, by name, or why it has none.
        layouts: the layouts of the layers with a rank, by name.
        loss: total loss.
        bits: bits per entry of each matrix, by the name of its tensor, None for its type; empty
            where a budget does not choose them.
    """

    ranks: Mapping[str, int | Untouched]
    layouts: Mapping[str, Layout]
    loss: float
    bits: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """The layers among which a budget is divided.

    Attributes:
        groups: layers that get one rank; a group has several layers if they share a right factor.
        options: for each group, the ranks that it can get, their losses and their costs.
        layouts: for each group, the layout that costs least at each rank from 0 on.
        total: cost of the dense model, other layers included.
    """

    groups: Sequence[Sequence[Fitted]]
    options: Sequence[RankOptions]
    layouts: Sequence[Sequence[Layout]]
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

    def divide(self, size: int) -> Division:
        """The best division among the layers, for a model that costs at most ``size``.

        Raises:
            ValueError: the cheapest ranks cost more.
        """
        ranks = self.ranks(size)
        return Division(ranks, self.layouts_at(ranks), self.loss(ranks))

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

    def loss(self, ranks: Mapping[str, int | Untouched]) -> float:
        """The total loss at these ranks, by layer name."""
        chosen = (ranks[group[0].layer.name] for group in self.groups)
        pairs = zip(self.options, chosen, strict=True)
        return sum(float(o.losses[rank:].sum()) for o, rank in pairs if isinstance(rank, int))

    def layouts_at(self, ranks: Mapping[str, int | Untouched]) -> dict[str, Layout]:
        """The layout that costs least at each layer's rank, by layer name."""
        return {
            item.layer.name: layouts[rank]
            for group, layouts in zip(self.groups, self.layouts, strict=True)
            for item in group
            if isinstance(rank := ranks[item.layer.name], int)
        }


def allocation_of(
    checkpoint: Checkpoint,
    fitted: Sequence[Fitted],
    calibrations: ByLayer[LayerCalibration] | None,
    goal: Goal,
    layout: Layout,
) -> Allocation:
    """The layers that share a budget of parameters, bytes or multiply-adds.

    Args:
        checkpoint: the dense network.
        fitted: its layers, with their approximations.
        calibrations: by layer name, or None if nothing was calibrated.
        goal: the unit of its budget, parameters if it has none, and the multiple of all ranks.
        layout: how pruned layers are stored; of several choices, each layer gets the one that
            costs least at its rank. In a layout that splits no layer, the ranks are those that the
            factored layout would get.

    Raises:
        UsageError: a budget of multiply-adds for convolutions or recurrent layers that were not
            calibrated, so that the number of their positions is not known.
    """
    unit = "parameters" if goal.budget is None else goal.budget.unit
    costs = Costs(unit, calibrations)
    free = [item for item in fitted if not outside_budget(item, calibrations)]
    if unit == "macs" and calibrations is None:
        _refuse_uncounted(checkpoint, free)
    groups = _groups(free)
    tables = [
        cheapest(choices_for(layout, group[0].layer), partial(costs.of, group=group))
        for group in groups
    ]
    options = [
        RankOptions(losses_of(group), table, costs.dense(group), 1, goal.multiple(len(table)))
        for group, (table, _) in zip(groups, tables, strict=True)
    ]
    if unit == "macs":
        others = sum(item.layer.size for item in fitted if outside_budget(item, calibrations))
        total = others + sum(each.dense for each in options)
    else:
        total = checkpoint.bytes if unit == "bytes" else checkpoint.parameters
    return Allocation(groups, options, [layouts for _, layouts in tables], total)


def _refuse_uncounted(checkpoint: Checkpoint, items: Sequence[Fitted]) -> None:
    others = [x for x in items if not (x.layer.linear or x.layer.view.table)]
    if others:
        kind, asked = _words(others[0])
        raise UsageError(
            f"{checkpoint.path}: {others[0].layer.name} is {kind}, whose multiply-adds depend on "
            f"the size of its input: give inputs with {option('calib')}, or leave out {asked}"
        )


def _words(item: Fitted) -> tuple[str, str]:
    """What a layer is that is not linear, and the option that asks for it."""
    if item.layer.view.kernel:
        return "a convolution", option("conv")
    return "part of a recurrent layer", option("recurrent")


def timed_allocation(
    checkpoint: Checkpoint,
    fitted: Sequence[Fitted],
    calibrations: ByLayer[LayerCalibration] | None,
    goal: Goal,
    layout: Layout,
    times: Callable[[Layer, Layout], Times],
) -> Allocation:
    """The layers that share a budget of time, in nanoseconds.

    Args:
        checkpoint: the dense network.
        fitted: its layers, with their approximations. The time of linear layers that stay as they
            are counts too.
        calibrations: by layer name, or None if nothing was calibrated.
        goal: the multiple of all ranks.
        layout: how pruned layers are stored; of several choices, each layer gets the one that is
            fastest at its rank.
        times: measures a layer, dense and in a layout.

    Raises:
        UsageError: one of the layers is neither linear nor a table, which takes next to no time;
            the time of others is not known.
    """
    free = [item for item in fitted if not outside_budget(item, calibrations)]
    for item in free:
        if not (item.layer.linear or item.layer.view.table):
            raise UsageError(
                f"{checkpoint.path}: {item.layer.name} is {_words(item)[0]}, and a latency budget "
                f"is divided among linear layers only: leave out {_words(item)[1]}"
            )
    first = layout.choices[0] if layout.splits else Factored()

    def dense(item: Fitted) -> int:
        return 0 if item.layer.view.table else _nanoseconds(times(item.layer, first).dense)

    tables = [
        cheapest(choices_for(layout, item.layer), partial(_timed, item, times=times))
        for item in free
    ]
    options = [
        RankOptions(losses_of([item]), table, dense(item), 1, goal.multiple(len(table)))
        for item, (table, _) in zip(free, tables, strict=True)
    ]
    total = sum(dense(item) for item in fitted if item.layer.linear)
    return Allocation([[x] for x in free], options, [layouts for _, layouts in tables], total)


def _timed(
    item: Fitted, layout: Layout, times: Callable[[Layer, Layout], Times]
) -> NDArray[np.int64]:
    """The time of each rank of a layer; its size may not grow either. A table has no rank.

    A rank that would save less than two runs of one layer differ by saves nothing.
    """
    layer = item.layer
    if layer.view.table:
        return np.zeros(1, np.int64)
    line = times(layer, layout)
    ranks = range(1 + min(layout.largest_rank(*layer.shape), len(losses_of([item]))))
    seconds = [line.of(layout.values(*layer.shape, rank)) for rank in ranks]
    costs = np.array([_nanoseconds(value) for value in seconds], np.int64)
    # Rounded to whole nanoseconds, a rank must still cost more than the one below.
    costs = np.maximum(costs, costs[0] + np.arange(len(costs)))
    dense = _nanoseconds(line.dense)
    return np.asarray(np.where(costs * NOISE < dense, costs, np.maximum(costs, dense)))


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
