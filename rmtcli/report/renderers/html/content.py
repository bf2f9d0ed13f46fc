"""The content of a page, whatever it reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmtcli.report.advice import Advice

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure of the result.

    Attributes:
        label: what it measures.
        value: the figure.
        detail: where it comes from.
        grade: ``good``, ``fair``, ``bad`` or ``unknown``.
    """

    label: str
    value: str
    detail: str
    grade: str = "unknown"


@dataclass(frozen=True, slots=True)
class Region:
    """A tensor on the map, in percent of the map's sides.

    Attributes:
        name: the tensor, or what the region holds.
        text: its numbers, and what was done.
        tone: the verdict: ``fits``, ``apart`` or ``other``.
        kept: the share of it that is left, in percent.
        left: distance from the left.
        top: distance from the top.
        width: extent from the left to the right.
        height: extent from the top to the bottom.
        panel: the number of its panel; None without one.
        room: where there is room for its name: ``named wide`` everywhere, ``named`` on a wide
            screen, or empty.
    """

    name: str
    text: str
    tone: str
    kept: float
    left: float
    top: float
    width: float
    height: float
    panel: int | None = None
    room: str = ""


@dataclass(frozen=True, slots=True)
class Map:
    """Tensors as regions, each as large as its bytes.

    Attributes:
        title: the heading.
        text: how to read it.
        regions: the tensors.
        legend: tone -> its meaning.
    """

    title: str
    text: str
    regions: Sequence[Region]
    legend: dict[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: its cells, and the number of its panel, if it has one."""

    cells: Sequence[str]
    panel: int | None = None


@dataclass(frozen=True, slots=True)
class Grid:
    """A table that can be sorted and filtered.

    Attributes:
        title: the heading.
        columns: name of each column, and whether it holds numbers.
        rows: the rows.
        named: whether the first cell names the row.
    """

    title: str
    columns: Sequence[tuple[str, bool]]
    rows: Sequence[Row]
    named: bool = True


@dataclass(frozen=True, slots=True)
class Panel:
    """One layer: its name, what was done, its spectrum, and facts as label and text."""

    name: str
    text: str
    figure: Markup
    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Page:
    """A page, from its first line to its last.

    Attributes:
        title: its first line, without the path.
        path: the checkpoint.
        tiles: the result.
        advice: what the result means.
        load: the line that loads the output, or None.
        map: where the bytes are.
        curve: the figure of a curve.
        grid: the table.
        totals: measure, before, after and change.
        summary: label and text.
        choices: options, as the command line spells them.
        panels: one per layer.
        undrawn: number of layers without a panel.
    """

    title: str
    path: str
    tiles: Sequence[Tile] = ()
    advice: Advice | None = None
    load: str | None = None
    map: Map | None = None
    curve: Markup | None = None
    grid: Grid | None = None
    totals: Sequence[tuple[str, str, str, str]] = ()
    summary: Sequence[tuple[str, str]] = ()
    choices: Sequence[tuple[str, str]] = ()
    panels: Sequence[Panel] = ()
    undrawn: int = 0
