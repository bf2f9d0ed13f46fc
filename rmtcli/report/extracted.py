"""What an adapter holds of the change between two networks, and what it leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rmtcli.report.formatting import count_of, significant

#: Other tensors that are listed one by one; the rest is counted.
LISTED = 12


@dataclass(frozen=True, slots=True)
class Beside:
    """A tensor that changed and has no low-rank change.

    Attributes:
        name: its name.
        shape: its shape.
        share: its part of the squared norm of the whole change.
        saved: whether the adapter holds it whole.
        resized: whether it has another number of rows than in the base.
    """

    name: str
    shape: tuple[int, ...]
    share: float
    saved: bool
    resized: bool


@dataclass(frozen=True, slots=True)
class Extracted:
    """An adapter beside the change that it was made from.

    Shares are of the squared Frobenius norm of the whole change.

    Attributes:
        style: the format of the adapter.
        bytes: bytes of its tensors.
        kept: share that the adapter holds.
        noise: share that the noise of the layers has, by the sigma of their fits.
        by_output: share of the change of the layers' outputs, in the metric of the calibration,
            that the low-rank changes hold; None without calibration.
        unchanged: number of layers that are equal in both networks.
        beside: the tensors that changed and have no low-rank change.
        only: tensors that one network alone has, and which.
    """

    style: str
    bytes: int
    kept: float
    noise: float
    by_output: float | None
    unchanged: int
    beside: tuple[Beside, ...]
    only: tuple[tuple[str, str], ...]

    @property
    def size(self) -> str:
        """The size of the adapter: ``1.2 MB``."""
        unit, word = (1e6, "MB") if self.bytes >= 1e6 else (1e3, "kB")
        return f"{self.bytes / unit:.3g} {word}"

    @property
    def words(self) -> str:
        """What it holds, in a few words."""
        return f"{percent(self.kept)} of the change kept"

    def lines(self) -> Iterator[tuple[str, str]]:
        """Label and text of what a summary says."""
        text = f"{percent(self.kept)} of the change by its squared norm"
        if self.by_output is not None:
            text += f"; {percent(self.by_output)} of the change of the layers' outputs"
        yield "kept", text
        yield "noise", f"{percent(self.noise)} of the change, by the fits of the layers"
        if self.unchanged:
            yield "unchanged", count_of(self.unchanged, "layer")
        for label, saved in (("saved whole", True), ("left out", False)):
            items = sorted((x for x in self.beside if x.saved is saved), key=lambda x: -x.share)
            yield from ((label, _described(item)) for item in items[:LISTED])
            if rest := items[LISTED:]:
                share = percent(sum(item.share for item in rest))
                yield label, f"{len(rest)} more tensors, {share} of the change together"
        for name, which in self.only[:LISTED]:
            yield f"only in {which}", f"{name}: left out"
        if len(self.only) > LISTED:
            yield "only in one", f"{len(self.only) - LISTED} more tensors: left out"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        record = asdict(self)
        return record | {"only": [{"name": name, "in": which} for name, which in self.only]}


def percent(share: float) -> str:
    """A share in percent, with three digits."""
    return f"{significant(100 * share, 3)} %"


def _described(item: Beside) -> str:
    sides = "×".join(map(str, item.shape)) or "one number"
    resized = ", with another number of rows than the base" if item.resized else ""
    return f"{item.name}, {sides}{resized}: {percent(item.share)} of the change"
