"""Scores as lines of a summary: label and text."""

from __future__ import annotations

import numpy as np

from rmtcli.evaluation import Comparison, Rows
from rmtcli.report.base import Report, Source


def scores(comparison: Comparison, reference: Source | None) -> list[tuple[str, str]]:
    """The scores of a network, next to those of the network that it is compared with."""
    other = "the dense network" if reference is None else reference.path
    labels = comparison.rows is Rows.LABELS
    scored = [
        ("cosine", _cosines(comparison)),
        ("label accuracy" if labels else "accuracy", _accuracy(comparison)),
        ("R²", _r_squared(comparison)),
        ("squared error", _squared_error(comparison)),
        ("change", _change(comparison, other)),
        ("perplexity", _perplexity(comparison)),
        ("agreement", _agreement(comparison, other)),
        ("margin", _margins(comparison)),
        ("stability", _stability(comparison)),
        ("certificate", _certificate(comparison)),
        ("score", _score(comparison)),
    ]
    lines = network(comparison)
    return lines + [(label, text) for label, text in scored if text is not None]


def _cosines(comparison: Comparison) -> str | None:
    """The mean cosine with the dense network's embeddings, and its lower tail."""
    cosines = comparison.cosines
    if cosines is None:
        return None
    text = f"mean {cosines.mean():.4f} with the dense embeddings; 5th percentile "
    text += f"{np.quantile(cosines, 0.05):.4f}"
    if comparison.unhealed is not None and comparison.unhealed.accuracy is not None:
        text += f"; {comparison.unhealed.accuracy / 100:.4f} before {comparison.training}"
    return text


def _accuracy(comparison: Comparison) -> str | None:
    """The accuracy before and after, of a network that gives classes or labels."""
    before, after = comparison.before, comparison.after
    if after.accuracy is None or not comparison.rows.needs_targets:
        return None
    text = f"{after.accuracy:.2f} %"
    if before is not None and comparison.drop is not None:
        text = f"{before.accuracy:.2f} % → {text} ({_gain(comparison)})"
    if comparison.unhealed is not None:
        text += f"; {comparison.unhealed.accuracy:.2f} % before {comparison.training}"
    return text


def _gain(comparison: Comparison) -> str:
    """The points gained, or why they mean nothing."""
    assert comparison.drop is not None
    if comparison.at_chance:
        return "the dense network does no better than chance"
    return f"{round(-comparison.drop, 2) + 0.0:+.2f} points"


def _r_squared(comparison: Comparison) -> str | None:
    """The coefficient of determination of numbers, before and after."""
    before, after = comparison.before, comparison.after
    if after.squared_error is None or after.accuracy is None:
        return None
    text = f"{after.accuracy / 100:.4f}"
    if before is not None and before.accuracy is not None:
        text = f"{before.accuracy / 100:.4f} → {text} ({_gain(comparison)})"
    if comparison.unhealed is not None and comparison.unhealed.accuracy is not None:
        text += f"; {comparison.unhealed.accuracy / 100:.4f} before {comparison.training}"
    return text


def _squared_error(comparison: Comparison) -> str | None:
    """The mean squared error of numbers, before and after."""
    before, after = comparison.before, comparison.after
    if after.squared_error is None:
        return None
    first = "" if before is None else f"{before.squared_error:.4g} → "
    return f"{first}{after.squared_error:.4g} (mean)"


def _change(comparison: Comparison, other: str) -> str | None:
    """How far numbers are from another network's."""
    if comparison.relative_change is None:
        return None
    share = 100 * comparison.relative_change
    return f"{share:.3g} % of the spread of the outputs of {other} (root mean square)"


def _perplexity(comparison: Comparison) -> str | None:
    """The perplexity before and after, of a language model."""
    before, after = comparison.before, comparison.after
    if after.perplexity is None:
        return None
    text = "" if before is None else f"{before.perplexity:.4g} → "
    return f"{text}{after.perplexity:.4g} (accuracy is that of the next token)"


def _agreement(comparison: Comparison, other: str) -> str | None:
    """The agreement with another network, and the divergence from it."""
    if comparison.agreement is None:
        return None
    share = " of the labels" if comparison.rows is Rows.LABELS else ""
    text = f"{comparison.agreement:.2f} %{share} with {other}"
    if comparison.divergence is not None:
        per = " per label" if comparison.rows is Rows.LABELS else ""
        text += f"; KL divergence {comparison.divergence:.3g} nats{per}"
    return text


def _margins(comparison: Comparison) -> str | None:
    """The median margin and its 5th percentile: the typical sample, and those near the boundary."""
    if comparison.margins is None:
        return None
    known = [values for values in comparison.margins if values is not None]
    middle, low = (
        " → ".join(f"{np.quantile(values, share):.2f}" for values in known) for share in (0.5, 0.05)
    )
    return f"median {middle}; 5th percentile {low}"


def _stability(comparison: Comparison) -> str | None:
    """How confidences double, and what training cannot lose as long as it lowers the loss."""
    if comparison.stability is None:
        return None
    known = [values for values in comparison.stability if values is not None]

    def change(values: list[str]) -> str:
        return " → ".join(values)

    stays = change([f"{100 * values.stays:.1f}" for values in known])
    losses = change([f"{values.cross_entropy:.3g}" for values in known])
    text = f"at least {stays} % stay right while training does not raise the cross-entropy "
    text += f"({losses} nats)"
    sigmas = [values.doubling for values in known if values.doubling is not None]
    if len(sigmas) == len(known):
        text += f"; margins double by σ {change([f'{sigma:.2g}' for sigma in sigmas])}"
    return text


def _certificate(comparison: Comparison) -> str | None:
    """The share of the samples whose class cannot have changed."""
    if comparison.certificate is None:
        return None
    hidden, norms = comparison.certificate.hidden, comparison.certificate.propagated
    text = f"{hidden:.1f} % of the samples provably keep their class, by the change of the "
    return f"{text}last hidden layer; {norms:.1f} % by weight norms alone"


def _score(comparison: Comparison) -> str | None:
    """The user's own score, before and after."""
    before, after = comparison.before, comparison.after
    if after.score is None:
        return None
    text = f"{after.score:.6g}"
    if before is not None and before.score is not None:
        text = f"{before.score:.6g} → {text}"
    if comparison.unhealed is not None and comparison.unhealed.score is not None:
        text += f"; {comparison.unhealed.score:.6g} before {comparison.training}"
    return text


def network(comparison: Comparison) -> list[tuple[str, str]]:
    """The network, its task where no directory says it, and the data."""
    lines = [("network", comparison.network)]
    if comparison.reading.words and comparison.samples is not None:
        lines.append(("task", comparison.reading.words))
    return lines + data(comparison)


def data(comparison: Comparison) -> list[tuple[str, str]]:
    """The data that the scores were measured on."""
    samples = comparison.samples
    if samples is None:
        return []
    scaled = ", byte values divided by 255" if samples.scaled else ""
    taken = f", from {samples.taken}" if samples.taken else ""
    return [("data", f"{samples.path}, {len(samples.inputs):,} samples{taken}{scaled}")]


def dense(report: Report) -> str:
    """The accuracy or score of a curve's dense network, as the end of a line."""
    before = report.curve[0].comparison.before
    if before is None:
        return ""
    known, rows = before.accuracy is not None, report.curve[0].comparison.rows
    accuracy = f", {before.accuracy:.2f} % accurate" if known and rows.needs_targets else ""
    if before.squared_error is not None and before.accuracy is not None:
        accuracy = f", R² {before.accuracy / 100:.4f}"
    return accuracy + ("" if before.score is None else f", score {before.score:.6g}")
