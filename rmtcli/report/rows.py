"""A report as rows of text and lines of summary, whatever they are shown on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rmtcli.calibration import Calibrated
from rmtcli.edges import Verdict
from rmtcli.errors import one_line
from rmtcli.planning import LayerPlan
from rmtcli.report.base import Report
from rmtcli.report.curve import Point
from rmtcli.report.scores import data, dense, scores

#: Skipped tensors named for each reason.
NAMES = 5
#: Columns whose text is aligned to the right.
NUMERIC = {"γ", "σ", "edge s₊", "s₁", "fit", "p", "spikes", "rank", "break-even"} | {
    "tail α",
    "stable rank",
    "parameters",
    "left",
    "accuracy",
    "cosine",
    "change",
    "perplexity",
    "agreement",
    "KL",
    "score",
}


def table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Column names and one row a layer, or a network of the curve."""
    if report.curve:
        columns = ["parameters", "left", "accuracy", "cosine", "change", "perplexity"]
        columns += ["agreement", "KL", "score"]
        rows = [_point_row(point, report.source.parameters) for point in report.curve]
        used = [i for i in range(len(columns)) if any(row[i] for row in rows)]
        return [columns[i] for i in used], [[row[i] for i in used] for row in rows]
    if report.action == "analyze":
        columns = ["layer", "shape", "γ", "σ", "s₁", "edge s₊", "fit", "p", "spikes"]
        columns += ["break-even", "stable rank", "tail α", "verdict"]
        return columns, [_fit_row(plan) for plan in report.layers]
    columns = ["layer", "shape", "edge s₊", "fit", "spikes", "rank", "parameters", "action"]
    return columns, [_prune_row(plan) for plan in report.layers]


def summary(report: Report) -> list[tuple[str, str]]:
    """What a reader wants to know first: label and text."""
    lines = []
    if report.action == "analyze":
        verdicts = {plan.fit.verdict: plan.fit.verdict.value for plan in report.layers}
        lines += [(_word(verdict), text) for verdict, text in verdicts.items()]
        lines += _estimators(report)
        lines.append(("parameters", f"{report.source.parameters:,}"))
        before, after = report.parameters
        if report.pruned:
            lines.append(("prune --keep auto", _change(before, after, "parameters")))
        else:
            lines.append(("prune --keep auto", "would change nothing"))
    elif report.curve:
        lines.append(("dense", f"{report.source.parameters:,} parameters{dense(report)}"))
        comparison = report.curve[0].comparison
        lines.append(("network", comparison.network))
        lines += data(comparison)
    elif report.action in ("prune", "finetune") and report.layers:
        lines.append(("parameters", _change(*report.parameters)))
        lines.append((f"in {_count(len(report.pruned), 'layer')}", _pruned(report)))
        lines += _convolutions(report)
    elif report.action == "simulate":
        source = report.source
        lines.append(("wrote", f"{source.path}: {source.parameters:,} parameters, truth inside"))
    lines += _guarded(report)
    if report.output is not None:
        sizes = _change(report.source.bytes, report.output.bytes)
        lines.append(("bytes on disk", sizes))
    lines += _readback(report)
    lines += _latency(report)
    if report.comparison is not None:
        lines += scores(report.comparison, report.reference)
    lines += [("not layers", text) for text in _skipped(report)]
    lines += [("note", note) for note in report.notes]
    if report.output is not None:
        lines.append(("wrote", report.output.path))
    # Notes and paths may quote what a file says.
    return [(label, shown(text)) for label, text in lines]


def options(report: Report) -> list[tuple[str, str]]:
    """The choices that were made, as the command line spells them."""
    # A budget or a limit decides instead of a keep rule.
    rule = None if report.budget or report.guard else report.keep
    return [(label, text) for label, text in (("edge", report.edge), ("keep", rule)) if text]


def _convolutions(report: Report) -> list[tuple[str, str]]:
    """What split convolutions compute: as many multiply-adds at each place as they have weights."""
    kernels = [p for p in report.pruned if p.layer.view.kernel and p.layout.splits]
    if not kernels:
        return []
    before, after = sum(p.layer.size for p in kernels), sum(p.size for p in kernels)
    return [("convolutions", _change(before, after, "multiply-adds at an output position"))]


def _estimators(report: Report) -> list[tuple[str, str]]:
    """Which estimators were selected, why, and for how many layers."""
    chosen = Counter(plan.fit.chosen for plan in report.layers if plan.fit.chosen)
    return [("edge", f"{text} ({_count(count, 'layer')})") for text, count in chosen.most_common()]


def _guarded(report: Report) -> list[tuple[str, str]]:
    """What was asked of all layers at once, and how sure the answer is."""
    lines = []
    if report.calibrated is not None:
        lines.append(("calibrated", _calibrated(report.calibrated)))
    if report.budget is not None:
        lines.append(("budget", report.budget.words))
    if report.guard is not None:
        guard, text = report.guard, f"at most {report.guard.max_drop:g} may be lost"
        if guard.searched:
            text += f"; searched on {guard.searched:,} samples, confirmed on {guard.confirmed:,}"
        if guard.confidence is not None:
            text += f"; {100 * guard.confidence:.0f} % confidence from the samples below"
        lines.append(("guard", text))
    return lines


def _calibrated(done: Calibrated) -> str:
    settings = done.settings
    parts = [
        f"{done.samples:,} samples, {settings.metric} metric, {_memory(done.bytes)} of moments"
    ]
    if settings.sequential:
        parts.append("layer after layer")
    if settings.heal:
        parts.append(f"healed in {_count(settings.heal, 'pass')}")
    return "; ".join(parts)


def _memory(size: int) -> str:
    return f"{size / 2**20:,.0f} MB" if size >= 2**20 else f"{size / 2**10:,.0f} kB"


def action(plan: LayerPlan) -> str:
    """What happens to a layer, and why."""
    if plan.untouched is not None:
        return f"left alone: {plan.untouched.value}"
    if plan.shares_with is not None:
        return f"split in two, shares the first with {shown(plan.shares_with)}"
    return plan.layout.action


def _fit_row(plan: LayerPlan) -> list[str]:
    layer, fit, figures = plan.layer, plan.fit, plan.diagnostics
    return [
        shown(layer.name),
        _shape(layer.shape),
        f"{fit.law.gamma:.3f}",
        f"{fit.law.sigma:.4g}",
        f"{plan.spectrum.singular_value(plan.largest):.4g}",
        f"{plan.spectrum.singular_value(fit.edge):.4g}",
        f"{fit.ks_distance:.4f}",
        "–" if fit.p_value is None else f"{fit.p_value:.2g}",
        str(plan.spikes),
        str(layer.break_even_rank),
        f"{figures.stable_rank:.1f}",
        "–" if figures.tail_alpha is None else f"{figures.tail_alpha:.3g}",
        _word(fit.verdict) + (", output head" if layer.head else ""),
    ]


def _prune_row(plan: LayerPlan) -> list[str]:
    layer, fit = plan.layer, plan.fit
    after = plan.size
    return [
        shown(layer.name),
        _shape(layer.shape),
        f"{plan.spectrum.singular_value(fit.edge):.4g}",
        f"{fit.ks_distance:.4f}",
        str(plan.spikes),
        f"{plan.rank} of {min(layer.shape)}",
        f"{layer.size:,}" if after == layer.size else f"{layer.size:,} → {after:,}",
        action(plan),
    ]


def _point_row(point: Point, dense: int) -> list[str]:
    """A network of the curve; empty where something was not measured."""
    found, error = point.comparison, point.error
    cosines = found.cosines
    return [
        f"{point.parameters:,}",
        f"{100 * point.parameters / dense:.1f} %",
        _shown(found.after.accuracy if cosines is None else None, ".2f", " %"),
        _shown(None if cosines is None else float(cosines.mean()), ".4f"),
        _shown(None if found.drop is None else -found.drop + 0.0, "+.2f") + _error(error),
        _shown(found.after.perplexity, ".4g"),
        _shown(found.agreement, ".2f", " %"),
        _shown(found.divergence, ".3g"),
        _shown(found.after.score, ".6g"),
    ]


def _error(error: float | None) -> str:
    return "" if error is None else f" ± {error:.2f}"


def _shown(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _pruned(report: Report) -> str:
    if not report.pruned:
        return "nothing can be pruned by this rule"
    return _change(*report.pruned_parameters)


def _skipped(report: Report) -> list[str]:
    """One line a reason, with the first few names; JSON has them all."""
    groups: dict[str, list[str]] = {}
    for item in report.skipped:
        groups.setdefault(item.reason.value, []).append(shown(item.name))
    lines = []
    for reason, names in groups.items():
        lines.append(f"{_some(names)}: {reason}")
    return lines


def _some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(names[:NAMES]) + more


def _readback(report: Report) -> list[tuple[str, str]]:
    """What was compared after writing."""
    found = report.readback
    if found is None:
        return []
    text = f"{_count(found.tensors, 'tensor')} as meant, bit for bit"
    if found.errors and report.calibrated is None:
        text += f"; the errors of {_count(len(found.errors), 'layer')} as predicted"
    return [("read back", text)]


def _latency(report: Report) -> list[tuple[str, str]]:
    """How long forward passes take, and what has become slower."""
    lines = []
    for found in report.latency:
        at = f"at batch {found.batch} ({found.device}, {_count(found.threads, 'thread')})"
        parts = [("linear layers", found.total)] if found.layers else []
        parts += [("network", found.network)] if found.network else []
        text = "; ".join(f"{what} {_times(*times)}" for what, times in parts)
        lines.append(("latency", f"{text or 'no linear layers'} {at}"))
        if found.slower:
            names = _some([shown(name) for name in found.slower])
            lines.append(("slower", f"{names}: two factors take longer than the layer did {at}"))
    return lines


def _times(before: float, after: float) -> str:
    return f"{milliseconds(before)} → {milliseconds(after)} ({100 * (after / before - 1):+.0f} %)"


def milliseconds(seconds: float) -> str:
    """A time as it is read."""
    return f"{1e3 * seconds:.3g} ms"


def shown(name: str) -> str:
    """A name from a file, with what is not printable as an escape."""
    return one_line(name)


def _change(before: int, after: int, unit: str = "") -> str:
    return f"{before:,} → {after:,} {unit}".rstrip() + f" ({change(before, after)})"


def change(before: float, after: float) -> str:
    """By how much something has grown, or shrunk, in per cent."""
    return f"{100 * (after / before - 1) + 0.0:+.1f} %"


def _count(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def _word(verdict: Verdict) -> str:
    return verdict.name.lower().replace("_", " ")


def _shape(shape: tuple[int, int]) -> str:
    return f"{shape[0]}×{shape[1]}"
