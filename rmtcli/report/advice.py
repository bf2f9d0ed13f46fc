"""What a result means, and the command that would do better."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import Path

from rmtcli.checkpoint import IN_MEMORY
from rmtcli.report.base import Report
from rmtcli.report.curve import Point
from rmtcli.report.formatting import count_of
from rmtcli.report.headline import PERCENT, POINTS, Grade, headline, next_steps, sizes

#: Options that a better command leaves out, each with a value: what decides the ranks, and files.
_DECIDED = {"--keep", "--max-drop", "--size", "--apply", "--fail-if", "--output", "-o"}
_DECIDED |= {"--budget", "--budget-bytes", "--budget-macs", "--budget-latency"}
_DECIDED |= {"--report", "--plan", "--plot"}
#: Options that it leaves out, without a value.
_FLAGS = {"--dry-run", "--force", "--json", "--quiet", "-q", "--verbose", "-v"}

#: Options for a budget, by unit.
_OPTIONS = {"parameters": "--budget", "bytes": "--budget-bytes"}


@dataclass(frozen=True, slots=True)
class Advice:
    """What a result means, and what to do.

    Attributes:
        text: one or two sentences.
        command: the command to go on with, or None if there is none better.
    """

    text: str
    command: str | None = None


def advice(report: Report, command: str | None = None) -> Advice | None:
    """What a result means; None for a report that asks for nothing.

    Args:
        report: the report.
        command: the command line that made it, whose other options are kept.
    """
    if report.curve:
        return _after_curve(report, command)
    if report.action == "analyze":
        steps = dict(next_steps(report))
        verb = "resize" if report.of_adapter else "prune"
        text = f"The edge tells noise from signal here: {verb} at it, and measure the cost."
        if "no guide" in steps:
            text = steps["no guide"][0].upper() + steps["no guide"][1:] + "."
        return Advice(text, steps.get("next"))
    if report.action == "prune":
        return _after_pruning(report, command)
    return None


def _after_pruning(report: Report, command: str | None) -> Advice | None:
    result, again = headline(report), _Again(report, command)
    if result is None:
        text = "Nothing was removed. Say how small the network may become, and give inputs like "
        return Advice(f"{text}those that it will read:", again.with_samples("--budget", "70%"))
    comparison = report.comparison
    if comparison is None:
        text = "Whether the network still works is not known, because the cost was not measured:"
        return Advice(text, again.with_samples())
    if comparison.at_chance:
        return Advice(
            "The dense network does no better than chance on these samples: check the targets and "
            "how inputs are prepared before you trust any figure."
        )
    limit = f"{PERCENT[0]:g}" if comparison.after.perplexity is not None else f"{POINTS[0]:g}"
    if result.grade is Grade.UNKNOWN:
        return Advice("Whether this cost is acceptable is for you to say.")
    if result.grade is Grade.GOOD:
        if report.guard is not None:
            return Advice("The cost is small; the search tried smaller networks already.")
        return Advice(
            "The cost is small. The smallest network within a limit on the loss is given by:",
            again.to("--max-drop", limit),
        )
    return _against_loss(report, again)


def _against_loss(report: Report, again: _Again) -> Advice:
    """How to lose less at about the same size, or, where all was tried, at a larger one."""
    before, after, unit = sizes(report)
    option = _OPTIONS[unit]
    share = after / before
    if report.calibrated is None:
        text = (
            "Directions that were removed mattered here. Ranks and factors that are chosen with "
            "data usually lose less at the same size:"
        )
        return Advice(text, again.with_samples(option, _percent(share)))
    if not report.calibrated.settings.heals:
        text = (
            "Training the new tensors to imitate the dense network usually recovers a part "
            "of the loss:"
        )
        return Advice(text, again.to(option, _percent(share), "--heal", "10"))
    text = "Calibration and healing were used already; a network of twice the size loses less:"
    return Advice(text, again.to(option, _percent(min(2 * share, 0.9))))


def chosen(report: Report) -> Point | None:
    """The smallest network of a curve that costs little; None if there is none."""
    cheap = [point for point in report.curve if _cheap(point)]
    return min(cheap, key=lambda point: point.parameters, default=None)


def _cheap(point: Point) -> bool:
    comparison = point.comparison
    before, after = comparison.before, comparison.after
    if comparison.at_chance or before is None:
        return False
    if after.perplexity is not None and before.perplexity is not None:
        return 100 * (after.perplexity / before.perplexity - 1) <= PERCENT[0]
    return comparison.drop is not None and comparison.drop <= POINTS[0]


def _after_curve(report: Report, command: str | None) -> Advice | None:
    point = chosen(report)
    if point is None:
        return Advice("No network on this curve costs little: measure larger ones with --size.")
    before, after, unit = sizes(report, point)
    share = 100 * after / before
    perplexity = point.comparison.after.perplexity is not None
    limit = f"{PERCENT[0]:g} % of perplexity" if perplexity else (
        f"{POINTS[0]:g} points of {point.comparison.rows.points}"
    )  # fmt: skip
    return Advice(
        f"The smallest of these {count_of(len(report.curve), 'network')} that costs at most "
        f"{limit} has {share:.3g} % of the {unit}:",
        _Again(report, command).to(_OPTIONS[unit], str(after)),
    )


def _percent(share: float) -> str:
    """A share as a budget, rounded up to two digits."""
    digits = 1 - math.floor(math.log10(100 * share))
    return f"{math.ceil(100 * share * 10**digits) / 10**digits:g}%"


class _Again:
    """Another run on the same network, with other options.

    Args:
        report: the report of the last run.
        command: its command line; without one, it is made from the report.
    """

    def __init__(self, report: Report, command: str | None) -> None:
        self._memory = report.source.path.endswith(IN_MEMORY)
        self._words = _words_of(report)
        if command is not None:
            self._words = _without(shlex.split(command))
            self._words[1:2] = ["prune"]

    def to(self, *options: str) -> str:
        """The command with these options."""
        if self._memory:
            return _in_python(options)
        return shlex.join([*self._words, *options])

    def with_samples(self, *options: str) -> str:
        """The command with these options, and with samples if it has none."""
        known = {"--data", "--calib", "--eval"} & set(self._words)
        return self.to(*options, *(() if known else ("--data", "samples.npz")))


def _words_of(report: Report) -> list[str]:
    """A command line for the network of a report, with its data where they are files."""
    comparison = report.curve[0].comparison if report.curve else report.comparison
    words = ["rmtcli", "prune", report.source.path]
    if comparison is not None and comparison.samples is not None and comparison.samples.path.suffix:
        words += ["--data", str(comparison.samples.path)]
    calibrated = report.calibrated and report.calibrated.settings.data
    if isinstance(calibrated, str | Path) and str(calibrated) not in words:
        words += ["--calib", str(calibrated)]
    return words


def _without(words: list[str]) -> list[str]:
    """A command line without what decided its ranks, and without the files that it wrote."""
    kept, skip = list[str](), False
    for word in words:
        if skip:
            skip = False
        elif word in _DECIDED:
            skip = True
        elif word not in _FLAGS and word.partition("=")[0] not in _DECIDED:
            kept.append(word)
    return kept


def _in_python(options: tuple[str, ...]) -> str:
    """The call of ``compress`` with some options of the command line."""
    names = {"--budget": "budget", "--max-drop": "max_drop"}
    pairs = dict(zip(options[::2], options[1::2], strict=True))
    parts = [
        f'{names[name]}="{value}"' if "%" in value else f"{names[name]}={value}"
        for name, value in pairs.items()
        if name in names
    ]
    given = "calibration=rmtcli.Calibration(loader, heal=10)" if "--heal" in pairs else (
        "calibration=loader"
    )  # fmt: skip
    return f"small = rmtcli.compress(model, {', '.join([*parts, given, 'data=samples'])})"
