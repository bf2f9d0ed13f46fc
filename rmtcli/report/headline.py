"""The result of a run in one line, and what a user does next."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from rmtcli.checkpoint import IN_MEMORY
from rmtcli.checkpoint.huggingface.config import read_object
from rmtcli.checkpoint.huggingface.loading import LOADER
from rmtcli.edges import Verdict
from rmtcli.errors import CheckpointError
from rmtcli.files import CONFIG, as_path
from rmtcli.report.base import Report
from rmtcli.report.curve import Point
from rmtcli.report.extracted import Extracted
from rmtcli.report.formatting import count_of, percent_change

if TYPE_CHECKING:
    from rmtcli.evaluation import Comparison

#: Losses up to which a result is good, and up to which it is fair: points of accuracy (100 times
#: the distance of a cosine or R² from the dense network's), and percent of perplexity.
POINTS, PERCENT = (0.5, 2.0), (3.0, 10.0)
#: Share of the layers that must follow the law for the edge to be a guide.
GUIDE = 0.5
#: Classes of networks that no task of ours runs; they have an Auto class of the same name.
_OTHER_HEADS = re.compile(r"For(MaskedLM|TokenClassification|QuestionAnswering)$")


class Grade(Enum):
    """What a result cost; the value is the colour that a terminal gives it."""

    GOOD = "green"
    FAIR = "yellow"
    BAD = "red"
    UNKNOWN = ""


@dataclass(frozen=True, slots=True)
class Headline:
    """A result in one line.

    Attributes:
        size: how much smaller the network is.
        cost: what that cost.
        grade: whether the cost is small.
    """

    size: str
    cost: str
    grade: Grade


def headline(report: Report) -> Headline | None:
    """The result of a run that made a smaller network; None for any other."""
    if report.extracted is not None and report.pruned:
        return _of_adapter(report, report.extracted)
    if report.action not in ("prune", "finetune") or not report.changes:
        return None
    text, grade = cost(report.comparison)
    return Headline(_smaller(report), text, grade)


def _of_adapter(report: Report, extracted: Extracted) -> Headline:
    """The size of an adapter, its ranks, and its part of the change."""
    ranks = [plan.rank for plan in report.layers]
    low, high = min(ranks), max(ranks)
    words = f"rank {high}" if low == high else f"ranks {low}–{high}"
    text = f"{count_of(len(ranks), 'layer')} · {words} · {extracted.words}"
    return Headline(f"adapter of {extracted.size}", text, Grade.UNKNOWN)


def sizes(report: Report, point: Point | None = None) -> tuple[int, int, str]:
    """Size before and after, and its unit: bytes where entries have fewer bits, else parameters.

    Args:
        report: the report.
        point: the network of a curve whose size is asked for, in place of the output's.
    """
    if report.bits is not None:
        before, after = report.tensor_bytes
        return before, after if point is None else point.bytes, "bytes"
    before, after = report.parameters
    return before, after if point is None else point.parameters, "parameters"


def _smaller(report: Report) -> str:
    """The ratio of sizes, or the difference in percent."""
    before, after, unit = sizes(report)
    if after >= before:
        return "not smaller"
    ratio = before / max(after, 1)
    if ratio < 2:  # a percentage says more than 1.3 times
        return f"{100 * (1 - after / before):.1f} % fewer {unit}"
    return f"{ratio:.3g}× smaller"


def cost(comparison: Comparison | None) -> tuple[str, Grade]:
    """The main score before and after, and how small the loss is."""
    if comparison is None:
        return "cost not measured", Grade.UNKNOWN
    from rmtcli.evaluation import Rows

    before, after = comparison.before, comparison.after
    if after.perplexity is not None and before is not None and before.perplexity is not None:
        change = percent_change(before.perplexity, after.perplexity)
        text = f"perplexity {before.perplexity:.4g} → {after.perplexity:.4g} ({change})"
        return text, _grade(100 * (after.perplexity / before.perplexity - 1), PERCENT)
    drop = comparison.drop
    if drop is None or before is None or before.accuracy is None or after.accuracy is None:
        return _without_accuracy(comparison)
    grade = Grade.UNKNOWN if comparison.at_chance else _grade(drop, POINTS)
    if comparison.rows is Rows.VECTORS:
        return f"cosine {after.accuracy / 100:.4f} with the dense network", grade
    if comparison.rows is Rows.VALUES:
        return f"R² {before.accuracy / 100:.4f} → {after.accuracy / 100:.4f}", grade
    change = f"{round(-drop, 2) + 0.0:+.2f}"
    return f"accuracy {before.accuracy:.2f} → {after.accuracy:.2f} % ({change})", grade


def _without_accuracy(comparison: Comparison) -> tuple[str, Grade]:
    """The cost without targets: by the user's own score, or against the dense network."""
    before, after = comparison.before, comparison.after
    if before is not None and before.score is not None and after.score is not None:
        return f"score {before.score:.6g} → {after.score:.6g}", Grade.UNKNOWN
    agreement = comparison.agreement
    if agreement is None:
        return "cost not measured", Grade.UNKNOWN
    text = f"agreement {agreement:.2f} % with the dense network"
    return text, _grade(100 - agreement, POINTS)


def _grade(loss: float, limits: tuple[float, float]) -> Grade:
    good, fair = limits
    return Grade.GOOD if loss <= good else Grade.FAIR if loss <= fair else Grade.BAD


def next_steps(report: Report) -> Iterator[tuple[str, str]]:
    """What to do with a result: label and text."""
    if report.action == "analyze" and report.layers:
        yield from _after_analysis(report)
    if report.action in ("prune", "finetune") and report.output is not None:
        yield "load", _loading(report)
    if report.extracted is not None and report.output is not None:
        yield from _opening(report.output.path, report.extracted.style)


def _opening(path: str, style: str) -> Iterator[tuple[str, str]]:
    """The line of Python that opens an adapter, on top of its base."""
    if style == "peft":
        yield "load", f'model = PeftModel.from_pretrained(model, "{as_path(path)}")'


def _after_analysis(report: Report) -> Iterator[tuple[str, str]]:
    """Whether the edge is a guide for these layers, and the command to go on with."""
    judged = [p.fit.verdict for p in report.layers if p.fit.verdict is not Verdict.TOO_SMALL]
    apart = sum(not verdict.trusted for verdict in judged)
    again, measured = _commands(report.source.path)
    if report.of_adapter:
        again = measured = f"rmtcli resize {shlex.quote(report.source.path)} --dry-run"
    if judged and apart > GUIDE * len(judged):
        yield (
            "no guide",
            f"{apart} of {count_of(len(judged), 'layer')} do not follow the law, so their edges "
            "do not show what can be removed: set a budget and give samples",
        )
        yield "next", again
    else:
        yield "next", measured if report.pruned else again


def _commands(path: str) -> tuple[str, str]:
    """How to prune a network to a size, and how to prune and measure it."""
    if path.endswith(IN_MEMORY):
        return (
            'small = rmtcli.compress(model, budget="70%", calibration=loader)',
            "small = rmtcli.compress(model, data=loader)",
        )
    source, samples = shlex.quote(path), "samples.npz"
    if as_path(path).is_dir():
        samples = "sentences.txt"
    return (
        f"rmtcli prune {source} --budget 70% --calib {samples}",
        f"rmtcli prune {source} --data {samples}",
    )


def _loading(report: Report) -> str:
    """The line of Python that loads a written network."""
    assert report.output is not None
    path = as_path(report.output.path)
    split = any(plan.layout.splits for plan in report.pruned) or report.bits is not None
    if path.suffix == ".onnx":  # the graph has its own code
        return f'session = onnxruntime.InferenceSession("{path}")'
    if not path.is_dir():
        return f'model = rmtcli.load(model, "{path}")'
    loaded = split or (path / LOADER).exists()  # it is there for widths per block, too
    first = "import rmtcli.integrations.transformers; " if loaded else ""
    return f'{first}model = {_auto_class(path)}.from_pretrained("{path}")'


def _auto_class(directory: Path) -> str:
    """The class of transformers that opens a directory with all of its network."""
    from rmtcli.evaluation import implied_task

    try:
        names = read_object(directory / CONFIG).get("architectures")
    except (OSError, CheckpointError):
        names = None
    name = str(names[0]) if isinstance(names, list) and names else ""
    task, other = implied_task([name]), _OTHER_HEADS.search(name)
    return task.auto if task is not None else f"AutoModel{other[0]}" if other else "AutoModel"
