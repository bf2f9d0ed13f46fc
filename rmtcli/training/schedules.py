"""Schedules: the share of a keep rule's dropped singular values that is still kept, over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from rmtcli.keep.base import check_count, check_share
from rmtcli.registry import Registry


class Schedule(Protocol):
    """A share that depends on time: a frozen dataclass, registered in ``SCHEDULES``."""

    def share(self, time: int) -> float:
        """Return the share of the dropped singular values that is kept, largest first.

        Args:
            time: number of earlier calls of the pruner, which are epochs or steps.

        Returns:
            From 0 to 1.
        """
        ...


SCHEDULES: Registry[Schedule] = Registry("schedule", "rmtcli.schedules")


@SCHEDULES.register("constant")
@dataclass(frozen=True, slots=True)
class Constant:
    """Keep the same share at all times.

    Shmalo, Jenkins and Krupchytskyi (2023) keep 0.45.

    Attributes:
        of: the share.
    """

    of: float
    reference: ClassVar[str] = "Shmalo, Jenkins and Krupchytskyi (2023), arXiv 2303.08986"

    def __post_init__(self) -> None:
        check_share("of", self.of)

    def share(self, time: int) -> float:
        """Return ``of``."""
        return self.of


@SCHEDULES.register("linear")
@dataclass(frozen=True, slots=True)
class Linear:
    """Let the share fall evenly from 1 to 0.

    Berlyand et al. (2023) use max(0, 1 − epoch/300).

    Attributes:
        until: time from which nothing more is kept than the keep rule keeps.
    """

    until: int
    reference: ClassVar[str] = "Berlyand et al. (2023), arXiv 2310.03165"

    def __post_init__(self) -> None:
        check_count("until", self.until)

    def share(self, time: int) -> float:
        """Return max(0, 1 − time/until)."""
        return max(0.0, 1 - time / self.until)
