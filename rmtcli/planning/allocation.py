"""The layers among which a budget is divided."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.dtypes import BYTES
from rmtcli.errors import UsageError
from rmtcli.keep import Untouched
from rmtcli.layers import Layer
from rmtcli.planning import allocate
from rmtcli.planning.fit import Fitted, LayerCalibration
from rmtcli.planning.times import Times


@dataclass(frozen=True, eq=False)
class Allocation:
    """The layers among which a budget is divided; siblings have one rank.

    Attributes:
        layers: layers with their approximations; output heads are not among them.
        costs: for each, the cost of one weight: copies, bytes or uses. Siblings' are the same.
        total: cost of the dense model.
        multiple: ranks are multiples of it.
        times: where time is what counts, what each layer takes; then ``costs`` is empty, the total
            is in nanoseconds, and nothing is shared.
    """

    layers: Sequence[Fitted]
    costs: Sequence[int]
    total: int
    multiple: int = 1
    times: Sequence[Times] | None = None

    @cached_property
    def groups(self) -> list[list[int]]:
        """Places in ``layers`` of the layers that share a right factor; most are alone."""
        found: dict[str, list[int]] = {}
        for i, item in enumerate(self.layers):
            found.setdefault(item.group or item.layer.name, []).append(i)
        return list(found.values())

    @property
    def choices(self) -> list[allocate.RankOptions]:
        """What each group may become, and what that costs."""
        found = []
        for first, *others in self.groups:
            item = self.layers[first]
            assert item.approximation is not None
            if self.times is not None:
                found.append(_timed(item, self.times[first], self.multiple))
                continue
            cost = self.costs[first]
            out = sum(self.layers[i].layer.shape[0] for i in (first, *others))
            inputs, losses = item.layer.shape[1], item.approximation.losses
            step, dense = cost * (out + inputs), cost * out * inputs
            found.append(allocate.RankOptions(losses, step, dense, multiple=self.multiple))
        return found

    @property
    def least(self) -> int:
        """Cost of the model with every one of these layers as small as can be."""
        return self.total - sum(choice.dense - choice.least for choice in self.choices)

    @property
    def at_edge(self) -> int:
        """Cost of the model with each of these layers at its edge rank, where that is smaller."""
        cost = self.total
        for group, choice in zip(self.groups, self.choices, strict=True):
            possible = choice.ranks
            if len(possible):
                spikes = max(self.layers[i].spikes for i in group)
                rank = np.searchsorted(possible, spikes).clip(0, len(possible) - 1)
                cost -= choice.dense - choice.cost(int(possible[rank]))
        return cost

    def ranks(self, size: int) -> dict[str, int | Untouched]:
        """The best ranks, by layer name, for a model that costs at most ``size``.

        Raises:
            ValueError: the smallest ranks cost more.
        """
        choices = self.choices
        fixed = self.total - sum(choice.dense for choice in choices)
        found = allocate.allocate(choices, size - fixed)
        return {
            self.layers[i].layer.name: Untouched.BUDGET if rank is None else rank
            for group, rank in zip(self.groups, found, strict=True)
            for i in group
        }


def _timed(item: Fitted, times: Times, multiple: int) -> allocate.RankOptions:
    """What a layer may become where time counts; no larger than it was, all the same."""
    assert item.approximation is not None
    dense, fixed, step = (nanoseconds(t) for t in (times.dense, times.fixed, times.step))
    return allocate.RankOptions(
        item.approximation.losses,
        max(step, 1),
        dense,
        multiple=multiple,
        fixed=fixed,
        most=item.layer.break_even_rank,
    )


def nanoseconds(seconds: float) -> int:
    """Time as a whole number, which a budget is divided in."""
    return round(1e9 * seconds)


def allocation_of(
    checkpoint: Checkpoint,
    fitted: Sequence[Fitted],
    data: Mapping[str, LayerCalibration] | None,
    *,
    unit: str = "parameters",
    multiple: int = 1,
) -> Allocation:
    """The layers that share a budget, and what their weights cost in its unit."""
    free = [item for item in fitted if not _outside(item, data)]

    def cost(item: Fitted) -> int:
        """Cost of one weight."""
        if unit == "bytes":
            return item.layer.copies * BYTES[item.layer.dtype]
        if unit == "macs":
            return 1 if data is None else max(1, round(data[item.layer.name].moments.uses))
        return item.layer.copies

    if unit == "bytes":
        total = checkpoint.bytes
    elif unit == "macs":
        fixed = [item for item in fitted if _outside(item, data)]
        total = sum(item.layer.size for item in fixed)
        total += sum(cost(item) * item.layer.size for item in free)
    else:
        total = checkpoint.parameters
    return Allocation(free, [cost(item) for item in free], total, multiple)


def timed_allocation(
    checkpoint: Checkpoint,
    fitted: Sequence[Fitted],
    data: Mapping[str, LayerCalibration] | None,
    times: Callable[[Layer], Times],
    *,
    multiple: int = 1,
) -> Allocation:
    """The layers that share a budget of time; linear layers that stay as they are count too.

    Raises:
        UsageError: convolutions are among them, whose times are not known.
    """
    free = [item for item in fitted if not _outside(item, data)]
    for item in free:
        if not item.layer.linear:
            raise UsageError(
                f"{checkpoint.path}: {item.layer.name} is a convolution, and a latency budget is "
                "divided among linear layers only: leave out --conv"
            )
    total = sum(nanoseconds(times(item.layer).dense) for item in fitted if item.layer.linear)
    return Allocation(free, [], total, multiple, [times(item.layer) for item in free])


def _outside(item: Fitted, data: Mapping[str, LayerCalibration] | None) -> Untouched | None:
    """Why a layer has no part in a budget: what cannot be split saves nothing."""
    return _left_out(item, data) or (None if item.layer.view.splits else Untouched.NO_FACTORS)


def _left_out(item: Fitted, data: Mapping[str, LayerCalibration] | None) -> Untouched | None:
    """Why no rank is chosen for a layer at all."""
    if item.layer.head:
        return Untouched.HEAD
    if data is not None and item.layer.name not in data:
        return Untouched.NO_DATA
    return None
