"""What a command asks for, beside its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rmtcli.calibration import Calibration
from rmtcli.checkpoint import DIRECTORY, Format, find_format
from rmtcli.computing import Cluster
from rmtcli.errors import UsageError
from rmtcli.layers import Selection
from rmtcli.layouts import Factored, Layout, Pivoted
from rmtcli.options import option
from rmtcli.pipeline.fits import (
    Track,
)
from rmtcli.planning import BITS, SAFE, Budget, Goal, LayerPlan, Plan
from rmtcli.report.base import Report

#: The word for bits that a budget of bytes chooses for each matrix.
AUTO = "auto"
#: The first version of transformers that opens weights in few bits.
NEEDED = 5


def _old() -> str:
    """The note on a directory where transformers is too old."""
    return (
        f"all types were kept, because transformers is older than {NEEDED} here and does not open "
        f"weights in few bits: update it, or give {option('bits', 'auto')}"
    )


def _in_torch() -> str:
    """The note on a file that is read by load_state_dict."""
    return (
        "all types were kept, because load_state_dict reads no weights in few bits: with "
        f"{option('bits', 'auto')} they take less, and rmtcli.load opens the file"
    )


#: The note on an ONNX file.
IN_GRAPH = (
    "all types were kept, because the graph of an ONNX file multiplies by matrices as they are"
)
#: Gives reasons why nothing is to be written, from the report of what would be.
Refuse = Callable[[Report], Sequence[str]]


def default_output(path: Path, word: str = "pruned") -> Path:
    """The default output of a command: ``model.pruned.pt`` for ``model.pt``.

    A directory ``model`` becomes ``model.pruned``; a file whose ending names no format that is
    written, such as an exported program's, becomes a safetensors file. A model in the cache of the
    Hugging Face Hub is written to the working folder.

    Args:
        path: the input.
        word: what is added to its name; ``dense`` takes the place of ``pruned``.
    """
    if path.parent.name == "snapshots":
        path = Path(path.parents[1].name.split("--")[-1])
        return path.with_name(f"{path.name}.{word}")
    stem = path.name if path.is_dir() else path.stem
    stem = stem.removesuffix(".pruned") if word == "dense" else stem
    if path.is_dir():
        path = path if path.name and path.name != ".." else path.resolve()
        return path.with_name(f"{stem or path.name}.{word}")
    file_format = find_format(path)
    if file_format is None or not file_format.writes:
        return path.with_name(f"{stem}.{word}.safetensors")
    return path.with_name(f"{stem}.{word}{path.suffix}")


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
        bits: bits per entry of every stored matrix; ``auto`` where the budget chooses them for
            each; None for the type that it has.
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
    bits: int | str | None = None

    def __post_init__(self) -> None:
        """Refuse a number of bits that is not offered, or bits that nothing chooses.

        Raises:
            UsageError: there is one of both.
        """
        if self.bits is None:
            return
        if self.bits not in (*BITS, AUTO):
            numbers = ", ".join(map(str, BITS))
            raise UsageError(
                f"{option('bits')} is {AUTO}, none or one of {numbers}, not {self.bits}"
            )
        unit = "bytes" if self.goal.budget is None else self.goal.budget.unit
        planned = self.goal.plan is not None and bool(self.goal.plan.matrices)
        if self.bits == AUTO and not planned and not (self.goal.joint and unit == "bytes"):
            raise UsageError(
                f"{option('bits', AUTO)} divides a budget of bytes: give {option('budget-bytes')} "
                f"or {option('max-drop')}, or a number of bits"
            )
        if self.chooses_bits and self.goal.share_inputs:
            raise UsageError(
                f"{option('share-inputs')} and a budget of bytes in few bits exclude each other: "
                f"leave out {option('share-inputs')}, or give {option('bits', 'none')}"
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
    def chooses_bits(self) -> bool:
        """Whether one budget of bytes is divided among ranks and matrices in few bits."""
        budget = self.goal.budget
        in_bytes = budget is not None and budget.unit == "bytes"
        return self.goal.joint and self.bits is not None and (self.bits == AUTO or in_bytes)

    def heals_in_bits(self, plans: Iterable[LayerPlan]) -> bool:
        """Whether a network is healed after it is stored in few bits, with rounding in the loop.

        One with pivot rows is healed before, as two factors for each weight.
        """
        runs = self.calibration.heals and self.calibration.data is not None
        few = self.bits is not None and runs
        return few and not any(isinstance(plan.layout, Pivoted) for plan in plans)

    @property
    def choices(self) -> tuple[int | None, ...]:
        """The numbers of bits among which that of each matrix is chosen; None for its type."""
        if self.bits == AUTO:
            return (None, *(BITS if self.calibrates else SAFE))
        return (None if self.bits is None else int(self.bits),)

    @property
    def shares(self) -> bool:
        """Whether layers that read the same input share a right factor."""
        return self.goal.share_inputs or bool(self.goal.plan and self.goal.plan.groups)


def _transformers() -> int:
    """The version of transformers here, by its first number; 5 where there is none."""
    try:
        return int(version("transformers").partition(".")[0])
    except PackageNotFoundError:
        return 5


def chosen_bits(given: int | str | None, goal: Goal, target: Format) -> int | str | None:
    """The bits of a request: those given, or the default for the goal and the destination.

    A budget of bytes chooses bits by default where others read few bits too: in safetensors files
    and in directories, unless the transformers here is older than 5, which cannot open them.
    Tensors in a torch file keep their types.

    Args:
        given: a number of bits or its digits, ``auto``, ``none``, or None for the default.
        goal: how ranks are decided.
        target: the format of the destination.

    Raises:
        UsageError: the plan has bits, and so has the request; or an ONNX file, whose graph would
            need other nodes, is to have bits or shared factors.
    """
    shares = goal.share_inputs or bool(goal.plan and goal.plan.groups)
    few = bits_of(given) is not None or bool(goal.plan and goal.plan.matrices)
    if target.keeps_graph and (shares or few):
        raise UsageError(
            "an ONNX file holds each factor by itself, in the types of its graph: leave out "
            f"{option('bits')} and {option('share-inputs')}, or write a .safetensors file"
        )
    if goal.plan is not None and goal.plan.matrices:
        if given is not None:
            raise UsageError(f"the plan sets the bits of each matrix: leave out {option('bits')}")
        return AUTO
    if given is None:
        return AUTO if _divides_bytes(goal) and not on_kept_types(given, goal, target) else None
    return bits_of(given)


def bits_of(given: int | str | None) -> int | str | None:
    """A number of bits, perhaps as digits, or ``auto``; None for ``none``."""
    if given is None or given == "none":
        return None
    return int(given) if str(given).isdecimal() else given


def on_kept_types(given: int | str | None, goal: Goal, target: Format) -> tuple[str, ...]:
    """A note where a budget of bytes would choose bits, and others could not open the output.

    Args:
        given: the bits that were asked for; None for the default.
        goal: how ranks are decided.
        target: the format of the destination.
    """
    if given is not None or not _divides_bytes(goal):
        return ()
    if target is DIRECTORY:
        return (_old(),) if _transformers() < NEEDED else ()
    if target.keeps_graph:
        return (IN_GRAPH,)
    return () if target.name == "safetensors" else (_in_torch(),)


def _divides_bytes(goal: Goal) -> bool:
    budget = goal.budget
    return budget is not None and budget.unit == "bytes" and not goal.share_inputs
