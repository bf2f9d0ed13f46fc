"""The table of a report: column names and rows of text, for every renderer."""

from __future__ import annotations

from rmtcli.keep import Untouched
from rmtcli.planning import LayerPlan
from rmtcli.report.base import Report
from rmtcli.report.curve import Point
from rmtcli.report.extracted import percent
from rmtcli.report.formatting import optional, shape_of, shown, significant, word_of
from rmtcli.report.repaired import Repaired

#: The columns after an analysis.
_FIT: tuple[str, ...] = ("layer", "shape", "γ", "σ", "s₁", "edge s₊", "fit", "p", "spikes")
_FIT += ("break-even", "stable rank", "tail α", "verdict")
#: The columns after pruning.
_PRUNE: tuple[str, ...] = ("layer", "shape", "edge s₊", "fit", "spikes", "rank", "parameters")
_PRUNE += ("action",)
#: The columns after pruning where there is room for more.
_FULL: tuple[str, ...] = ("layer", "shape", "verdict", "edge s₊", "fit", "spikes", "rank", "error")
_FULL += ("predicted loss", "parameters", "action")
#: The columns after the extraction of an adapter.
_EXTRACT: tuple[str, ...] = (
    "layer",
    "shape",
    "s₁",
    "edge s₊",
    "fit",
    "p",
    "spikes",
    "rank",
    "kept",
)
_EXTRACT += ("by output", "verdict", "action")
#: The columns after a repair.
_REPAIR: tuple[str, ...] = (*_EXTRACT[:-4], "loss before", "loss after", *_EXTRACT[-2:])
#: The columns of a curve.
_CURVE: tuple[str, ...] = (
    "parameters",
    "bytes",
    "left",
    "accuracy",
    "cosine",
    "R²",
    "change",
    "perplexity",
)
_CURVE += ("agreement", "KL", "score")
#: Columns whose text is aligned to the left; all others hold numbers.
_TEXT = {"layer", "shape", "verdict", "action"}
#: Columns of numbers, aligned to the right.
NUMERIC = {*_FIT, *_FULL, *_EXTRACT, *_REPAIR, *_CURVE} - _TEXT


def table(report: Report, *, full: bool = False) -> tuple[list[str], list[list[str]]]:
    """Column names, and one row per layer or per network of a curve.

    Args:
        report: the report.
        full: whether pruned layers have verdicts, errors and predicted losses, too.
    """
    if report.curve:
        rows = [_curve_row(point, report) for point in report.curve]
        used = [i for i in range(len(_CURVE)) if any(row[i] for row in rows)]
        return [_CURVE[i] for i in used], [[row[i] for i in used] for row in rows]
    if report.action == "analyze":
        columns = [x for x in _FIT if x != "break-even" or not report.of_adapter]
        fits = [dict(zip(_FIT, _fit_row(plan), strict=True)) for plan in report.layers]
        return columns, [[row[column] for column in columns] for row in fits]
    if report.extracted is not None:
        return _extracted(report)
    measured = any(plan.predicted_loss is not None for plan in report.layers)
    columns = [name for name in (_FULL if full else _PRUNE) if measured or name != "predicted loss"]
    cells = map(_prune_cells, report.layers)
    return columns, [[row[column] for column in columns] for row in cells]


def _extracted(report: Report) -> tuple[list[str], list[list[str]]]:
    """The columns of an extraction, those of calibration only where there was any."""
    if isinstance(report.extracted, Repaired):
        columns, before = list(_REPAIR), report.extracted.before
        rows = [_repair_cells(plan, before[plan.layer.name]) for plan in report.layers]
    else:
        measured = any(plan.predicted_loss is not None for plan in report.layers)
        columns = [name for name in _EXTRACT if measured or name != "by output"]
        rows = [_extract_cells(plan) for plan in report.layers]
    return columns, [[row[column] for column in columns] for row in rows]


def _repair_cells(plan: LayerPlan, before: float) -> dict[str, str]:
    """The cells of a layer that an adapter may repair, by column."""
    action = "repaired"
    if plan.untouched is not None:
        nothing = plan.untouched is Untouched.NO_SPIKES
        action = f"{'nothing to repair' if nothing else 'left out'}: {plan.untouched.value}"
    return _extract_cells(plan) | {
        "loss before": f"{before:.3g}",
        "loss after": optional(plan.predicted_loss, ".3g"),
        "action": action,
    }


def _extract_cells(plan: LayerPlan) -> dict[str, str]:
    """The cells of a layer whose change may be in an adapter, by column."""
    fit, lost = plan.fit, plan.predicted_loss
    return _prune_cells(plan) | {
        "s₁": significant(plan.spectrum.singular_value(plan.largest)),
        "p": _known(fit.p_value, 2, "–"),
        "rank": str(plan.rank),
        "kept": "" if plan.untouched else percent(1 - plan.relative_error**2),
        "by output": "" if plan.untouched or lost is None else percent(1 - lost),
        "action": "adapted" if plan.untouched is None else f"left out: {plan.untouched.value}",
    }


def action(plan: LayerPlan) -> str:
    """What is done with a layer, and why it is left alone if it is."""
    if plan.bits is None:
        return _change(plan)
    if plan.untouched is Untouched.BUDGET:
        return f"rounded to {plan.bits} bits"
    return f"{_change(plan)}, in {plan.bits} bits"


def _change(plan: LayerPlan) -> str:
    """What is done with a layer beside rounding."""
    if plan.untouched is not None:
        return f"left alone: {plan.untouched.value}"
    if plan.narrowed is not None:
        rest = f", {plan.layout.action}" if plan.ranked else ""
        return f"narrowed to {_widths(plan.layer.shape, plan.narrowed)}{rest}"
    if plan.shares_with is not None:
        layout = plan.layout
        return f"{layout.action}, shares {layout.shares} with {shown(plan.shares_with)}"
    return plan.layout.action


def _widths(dense: tuple[int, int], narrow: tuple[int, int]) -> str:
    """The sides of a layer that changed: ``300 of 784 inputs``."""
    sides = zip(dense, narrow, ("outputs", "inputs"), strict=True)
    return " and ".join(f"{new} of {old} {side}" for old, new, side in sides if new != old)


def _rank(plan: LayerPlan) -> str:
    """The rank of a layer, or the shape of one that is narrower and has full rank."""
    if plan.narrowed is not None and not plan.ranked:
        return shape_of(plan.narrowed)
    return f"{plan.rank} of {min(plan.shape)}"


def _fit_row(plan: LayerPlan) -> list[str]:
    layer, fit, figures = plan.layer, plan.fit, plan.diagnostics
    return [
        shown(layer.name),
        shape_of(layer.shape),
        f"{fit.law.gamma:.3f}",
        significant(fit.law.sigma),
        significant(plan.spectrum.singular_value(plan.largest)),
        significant(plan.spectrum.singular_value(fit.edge)),
        f"{fit.ks_distance:.4f}",
        _known(fit.p_value, 2, "–"),
        str(plan.spikes),
        str(layer.break_even_rank),
        f"{figures.stable_rank:.1f}",
        _known(figures.tail_alpha, 3, "–"),
        word_of(fit.verdict) + (", output head" if layer.head else ""),
    ]


def _prune_cells(plan: LayerPlan) -> dict[str, str]:
    """The cells of a pruned layer, by column."""
    layer, fit, after = plan.layer, plan.fit, plan.size
    return {
        "layer": shown(layer.name),
        "shape": shape_of(layer.shape),
        "verdict": word_of(fit.verdict),
        "edge s₊": significant(plan.spectrum.singular_value(fit.edge)),
        "fit": f"{fit.ks_distance:.4f}",
        "spikes": str(plan.spikes),
        "rank": _rank(plan),
        "error": f"{significant(100 * plan.relative_error, 3)} %" if plan.ranked else "",
        "predicted loss": _known(plan.predicted_loss, 3),
        "parameters": f"{layer.size:,}" if after == layer.size else f"{layer.size:,} → {after:,}",
        "action": action(plan),
    }


def _curve_row(point: Point, report: Report) -> list[str]:
    """A network of a curve; a cell is empty where its quantity was not measured."""
    comparison, error = point.comparison, point.error
    cosines, drop, after = comparison.cosines, comparison.drop, comparison.after
    if comparison.at_chance:  # nothing can be lost
        drop = error = None
    needs_targets = comparison.rows.needs_targets
    r_squared = None if after.squared_error is None else after.accuracy
    size, before = point.parameters, report.source.parameters
    if report.bits is not None:
        size, before = point.bytes, report.source.tensor_bytes
    return [
        f"{point.parameters:,}",
        f"{point.bytes:,}" if report.bits is not None else "",
        f"{100 * size / before:.1f} %",
        optional(comparison.after.accuracy if needs_targets else None, ".2f", " %"),
        optional(None if cosines is None else float(cosines.mean()), ".4f"),
        optional(None if r_squared is None else r_squared / 100, ".4f"),
        optional(None if drop is None else -drop + 0.0, "+.2f")
        + ("" if error is None else f" ± {error:.2f}"),
        _known(comparison.after.perplexity, 4),
        optional(comparison.agreement, ".2f", " %"),
        _known(comparison.divergence, 3),
        optional(comparison.after.score, ".6g"),
    ]


def _known(value: float | None, digits: int, otherwise: str = "") -> str:
    return otherwise if value is None else significant(value, digits)
