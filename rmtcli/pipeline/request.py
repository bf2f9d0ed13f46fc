"""What a command asks for, beside its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rmtcli.calibration import Calibration
from rmtcli.checkpoint import find_format
from rmtcli.computing import Cluster
from rmtcli.errors import UsageError
from rmtcli.layers import Selection
from rmtcli.layouts import Factored, Layout
from rmtcli.pipeline.fits import (
    Track,
)
from rmtcli.planning import Budget, Goal, Plan
from rmtcli.report.base import Report

#: Numbers of bits in which matrices can be stored.
BITS = (8, 6, 4, 3)
#: Gives reasons why nothing is to be written, from the report of what would be.
Refuse = Callable[[Report], Sequence[str]]


def default_output(path: Path) -> Path:
    """The default output of ``prune``: ``model.pruned.pt`` for ``model.pt``.

    A directory ``model`` becomes ``model.pruned``; a file whose ending names no format that is
    written, such as an exported program's, becomes a safetensors file.
    """
    if path.is_dir():
        path = path if path.name and path.name != ".." else path.resolve()
        return path.with_name(f"{path.name}.pruned")
    file_format = find_format(path)
    if file_format is None or file_format.write is None:
        return path.with_name(f"{path.stem}.pruned.safetensors")
    return path.with_name(f"{path.stem}.pruned{path.suffix}")


def goal_of(given: Mapping[str, Any]) -> Goal:
    """The goal in the arguments of :func:`rmtcli.prune`; a plan that is a file is read.

    Raises:
        UsageError: they exclude each other, or the plan cannot be read.
    """
    plan, batches = given["plan"], given["batches"]
    return Goal(
        given["keep"],
        Budget.of(given["budget"]),
        given["max_drop"],
        given["rank_multiple"],
        plan if plan is None or isinstance(plan, Plan) else Plan.read(plan),
        given["share_inputs"],
        batches[0] if batches else None,
        given["per_block"],
    )


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """How a checkpoint is to be pruned.

    Attributes:
        goal: how ranks are decided.
        edge: edge estimator with options.
        layout: how pruned layers are stored.
        selection: which matrices are layers; None for the default.
        calibration: how to find out what the layers see; without data or statistics they are
            pruned from their weights alone.
        cache: folder in which decompositions are kept and looked up, or None.
        cluster: where layers are computed; None for this process.
        track: wraps the iteration over layers, for progress.
        bits: bits per entry of every stored matrix; None for the type that it has.
        hashed: whether the bytes of each layer are hashed as they are read, for a new plan.
    """

    goal: Goal
    edge: str = "select"
    layout: Layout = field(default_factory=Factored)
    selection: Selection | None = None
    calibration: Calibration = field(default_factory=Calibration)
    cache: str | Path | None = None
    cluster: Cluster | None = None
    track: Track = iter
    hashed: bool = False
    bits: int | None = None

    def __post_init__(self) -> None:
        """Refuse a number of bits that is not offered, or a budget that does not know of it.

        Raises:
            UsageError: there is one of both.
        """
        if self.bits is None:
            return
        if self.bits not in BITS:
            raise UsageError(f"--bits is one of {', '.join(map(str, BITS))}, not {self.bits}")
        if self.goal.budget is not None and self.goal.budget.unit == "bytes":
            raise UsageError(
                "--budget-bytes counts bytes before matrices are rounded: with --bits, give "
                "--budget"
            )

    @property
    def calibrates(self) -> bool:
        """Whether there is something to calibrate on."""
        return self.calibration.data is not None or self.calibration.stats is not None

    @property
    def narrows(self) -> bool:
        """Whether hidden layers may become narrower.

        It needs inputs, free factors, and a budget or a plan of widths.
        """
        decided = self.goal.joint or bool(self.goal.plan and self.goal.plan.hidden)
        runs = decided and self.calibration.data is not None
        return self.layout.narrows and runs and not self.shares

    @property
    def joint(self) -> bool:
        """Whether all layers are held, because they are decided or changed together."""
        return self.goal.joint or self.shares or self.narrows

    @property
    def shares(self) -> bool:
        """Whether layers that read the same input share a right factor."""
        return self.goal.share_inputs or bool(self.goal.plan and self.goal.plan.groups)
