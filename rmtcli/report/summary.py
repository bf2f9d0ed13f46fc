"""The summary of a report: lines of label and text, for every renderer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rmtcli.report.base import Report
from rmtcli.report.formatting import (
    before_after,
    count_of,
    memory,
    shown,
    some_of,
    time_change,
    timing,
    word_of,
)
from rmtcli.report.headline import next_steps
from rmtcli.report.totals import bytes_of

if TYPE_CHECKING:
    from rmtcli.calibration import Calibrated, Reliability
    from rmtcli.evaluation import Comparison
    from rmtcli.planning import Guard, Latency, Timing

#: A label and its text.
Line = tuple[str, str]
#: Labels of lines for those who want to know more.
DETAILS = ("verified", "agreement", "margin", "stability", "certificate")


def summary(report: Report, *, details: bool = True) -> list[Line]:
    """The most important results first, then notes, and last the output and what to do with it.

    Args:
        report: the report.
        details: whether to include the lines of :data:`DETAILS`.
    """
    lines = [*_result(report), *_conditions(report)]
    if report.output is not None:
        sizes = bytes_of(report.source, report.output)
        lines += [(label, before_after(old, new)) for label, old, new in sizes]
    lines += [*_readback(report), *(line for times in report.latency for line in _latency(times))]
    if report.comparison is not None:
        from rmtcli.report.scores import scores

        other = report.reference if report.extracted is None else report.source
        lines += scores(report.comparison, other)
    lines += [("not layers", text) for text in _skipped(report)]
    lines += [("note", note) for note in report.notes]
    if report.output is not None:
        lines.append(("wrote", report.output.path))
    lines += next_steps(report)
    # Notes and paths may quote text from a file.
    hidden = () if details else _details(report)
    return [(label, shown(text)) for label, text in lines if label not in hidden]


def _details(report: Report) -> set[str]:
    """The labels of :data:`DETAILS`; without targets, the agreement is the main result."""
    measured = report.comparison is not None and report.comparison.drop is not None
    return {*DETAILS} if measured else {*DETAILS} - {"agreement"}


def options(report: Report) -> list[Line]:
    """The edge estimator and the keep rule, as the command line spells them."""
    # A budget or a limit on the loss decides in place of a keep rule.
    rule = None if report.budget or report.guard else report.keep
    return [(label, text) for label, text in (("edge", report.edge), ("keep", rule)) if text]


def _result(report: Report) -> list[Line]:
    """The result of the command itself."""
    if report.action == "analyze":
        return _analysis(report)
    if report.curve:
        from rmtcli.report.scores import dense, network

        comparison = report.curve[0].comparison
        size = f"{report.source.parameters:,} parameters"
        if report.bits is not None:
            size = f"{report.source.tensor_bytes:,} bytes"
        return [("dense", size + dense(report)), *network(comparison)]
    if report.extracted is not None:
        return [*_extraction(report), *report.extracted.lines()]
    if report.action in ("prune", "finetune") and report.layers:
        return [*_vocabulary(report), *_pruning(report)]
    if report.vocabulary is not None:
        return [*_vocabulary(report), ("parameters", before_after(*report.parameters))]
    if report.action == "simulate":
        text = f"{report.source.path}: {report.source.parameters:,} parameters"
        return [("wrote", f"{text}; the metadata holds the true values")]
    return []


def _analysis(report: Report) -> list[Line]:
    """The verdicts, the estimators, and the effect that pruning would have."""
    lines = _verdicts(report)
    lines.append(("parameters", f"{report.source.parameters:,}"))
    if report.of_adapter:
        above, every = (sum(counts) for counts in zip(*_directions(report), strict=True))
        return [*lines, ("above the edge", f"{above:,} of {every:,} directions")]
    change = before_after(*report.parameters, "parameters")
    lines.append(("prune --keep auto", change if report.pruned else "would change nothing"))
    return lines


def _directions(report: Report) -> Iterator[tuple[int, int]]:
    """The directions of each layer that are above the edge, and all of them."""
    for plan in report.layers:
        yield plan.spikes, plan.spectrum.p


def _extraction(report: Report) -> list[Line]:
    """What the verdicts on the changes mean, and which estimators made them."""
    labels = ("small", "dense") if report.action == "repair" else ("base", "tuned")
    return [
        (labels[0], "" if report.reference is None else report.reference.path),
        (labels[1], report.source.path),
        *_verdicts(report),
        ("adapted", f"{len(report.pruned)} of {count_of(len(report.layers), 'layer')}"),
    ]


def _verdicts(report: Report) -> list[Line]:
    """The verdicts that occur, and the estimators that were chosen."""
    verdicts = {plan.fit.verdict: plan.fit.verdict.value for plan in report.layers}
    lines = [(word_of(verdict), text) for verdict, text in verdicts.items()]
    chosen = Counter(plan.fit.chosen for plan in report.layers if plan.fit.chosen)
    return lines + [
        ("edge", f"{text} ({count_of(n, 'layer')})") for text, n in chosen.most_common()
    ]


def _vocabulary(report: Report) -> list[Line]:
    """The number of tokens, if some were dropped."""
    if report.vocabulary is None:
        return []
    return [("tokens", f"{before_after(*report.vocabulary)}; removed_tokens.json lists the others")]


def _pruning(report: Report) -> list[Line]:
    """The number of parameters, and of multiply-adds where convolutions are split."""
    pruned = "no layer can be pruned by this rule"
    if report.pruned:
        pruned = before_after(*report.pruned_parameters)
    lines = [("parameters", before_after(*report.parameters))]
    lines.append((f"in {count_of(len(report.pruned), 'layer')}", pruned))
    if report.bits is not None:
        text = before_after(*report.tensor_bytes, "bytes of all tensors")
        counts = Counter(plan.bits for plan in report.layers if plan.bits is not None)
        few = [f"{count_of(counts[bits], 'layer')} in {bits} bits" for bits in sorted(counts)]
        if isinstance(report.bits, str):
            lines += [("bytes", text), ("in few bits", ", ".join(few) or "none")]
        else:
            lines.append((f"in {report.bits} bits", text))
    kernels = [p for p in report.pruned if p.layer.view.kernel and p.layout.splits]
    if kernels:
        before, after = sum(p.layer.size for p in kernels), sum(p.size for p in kernels)
        text = before_after(before, after, "multiply-adds per output position")
        lines.append(("convolutions", text))
    return lines


def _conditions(report: Report) -> Iterator[Line]:
    """The data and the limits by which the ranks of all layers were decided together."""
    if report.calibrated is not None:
        yield "calibrated", _calibrated(report.calibrated)
        if report.calibrated.reliability is not None:
            yield "moments", _reliability(report.calibrated.reliability)
    if report.budget is not None:
        yield "budget", report.budget.words
    if report.guard is not None:
        yield "guard", _guard(report.guard, report.comparison)


def _calibrated(calibrated: Calibrated) -> str:
    from rmtcli.calibration import is_made

    settings = calibrated.settings
    samples = f"{calibrated.samples:,} samples"
    if settings.data is not None and is_made(settings.data):
        samples += f" of {settings.data}"
    parts = [samples, f"{settings.metric} metric"]
    text = ", ".join([*parts, f"{memory(calibrated.bytes)} of moments"])
    if settings.sequential:
        undone = "sequential" in calibrated.undone
        text += "; sequential fit undone" if undone else "; layer by layer"
    if settings.heals:
        undone = "heal" in calibrated.undone
        words = settings.healing
        text += f"; healing of {words} undone" if undone else f"; healed in {words}"
    return text


def _reliability(known: Reliability) -> str:
    """How many samples the moments are worth, and the loss on samples that they do not contain."""
    parts = [
        f"{_range(worth)} of {name}"
        for name, worth in (("inputs", known.inputs), ("gradients", known.gradients))
        if worth is not None
    ]
    text = f"independent samples: {', '.join(parts) or 'unknown'}"
    if known.aspect is not None:
        text += f"; width / samples {known.aspect:.2g}"
    if known.loss is not None:
        text += f"; predicted loss {known.loss.own:.2g}, held out {known.loss.apart:.2g}"
    return text


def _range(worth: tuple[float, float, float]) -> str:
    least, _, largest = (f"{value:,.0f}" for value in worth)
    return least if least == largest else f"{least} to {largest}"


def _guard(guard: Guard, comparison: Comparison | None) -> str:
    after = None if comparison is None else comparison.after
    unit = ""
    if after is not None and after.score is None and comparison is not None:
        unit = f" points of {comparison.rows.points}" if after.perplexity is None else " %"
    what = "rise of perplexity" if unit == " %" else "loss"
    text = f"a {what} of at most {guard.max_drop:g}{unit} is allowed"
    if guard.drop is not None:
        text += f"; {guard.drop:.2g} is expected"
    if guard.confidence is not None:
        samples = f"{guard.searched:,} samples"
        text += f"; {100 * guard.confidence:.0f} % confidence in the limit, from {samples}"
    return text


def _readback(report: Report) -> Iterator[Line]:
    """The result of comparing the written output with what was intended."""
    readback = report.readback
    if readback is None:
        return
    text = f"{count_of(readback.tensors, 'tensor')} bit-identical to what was intended"
    # The predicted errors are those of plain truncation.
    if readback.errors and report.calibrated is None:
        layers = len(readback.errors)
        owner = "1 layer's error" if layers == 1 else f"the errors of {layers} layers"
        text += f", {owner} as predicted"
    yield "verified", text


def _latency(latency: Latency) -> Iterator[Line]:
    """The times of forward passes at one batch size, and the layers that got slower."""
    threads = count_of(latency.threads, "thread")
    at = f"at batch {latency.batch} ({latency.device}, {threads})"
    parts = [("linear layers", latency.total)] if latency.layers else []
    parts += [("network", latency.network)] if latency.network else []
    text = "; ".join(f"{name} {_times(*times)}" for name, times in parts)
    yield "latency", f"{text or 'no linear layers'} {at}"
    if latency.slower:
        names = some_of([shown(name) for name in latency.slower])
        yield "slower", f"{names}: the two factors take longer than the dense layer {at}"


def _times(before: Timing, after: Timing) -> str:
    return f"{timing(before)} → {timing(after)} ({time_change(before, after)})"


def _skipped(report: Report) -> list[str]:
    """One line per reason, with the first few names; JSON lists all of them."""
    groups: dict[str, list[str]] = {}
    for item in report.skipped:
        groups.setdefault(item.reason.value, []).append(shown(item.name))
    return [f"{some_of(names)}: {reason}" for reason, names in groups.items()]
