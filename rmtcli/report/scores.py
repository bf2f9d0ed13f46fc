"""Scores as lines of a summary: label and text."""

from __future__ import annotations

import numpy as np

from rmtcli.evaluation import Comparison
from rmtcli.report.base import Report, Source


def scores(comparison: Comparison, reference: Source | None) -> list[tuple[str, str]]:
    """The scores of a network, next to those of the network that it is compared with."""
    other = "the dense network" if reference is None else reference.path
    before, after = comparison.before, comparison.after
    lines = [("network", comparison.network), *data(comparison)]
    if comparison.cosines is not None:
        lines.append(("cosine", _cosines(comparison)))
    elif after.accuracy is not None:
        text = f"{after.accuracy:.2f} %"
        if before is not None and comparison.drop is not None:
            gain = round(-comparison.drop, 2) + 0.0
            text = f"{before.accuracy:.2f} % → {text} ({gain:+.2f} points)"
        if comparison.unhealed is not None:
            text += f"; {comparison.unhealed.accuracy:.2f} % before {comparison.training}"
        lines.append(("accuracy", text))
    if after.perplexity is not None:
        text = "" if before is None else f"{before.perplexity:.4g} → "
        lines.append(
            ("perplexity", f"{text}{after.perplexity:.4g} (accuracy is that of the next token)")
        )
    if comparison.agreement is not None:
        text = f"{comparison.agreement:.2f} % with {other}"
        if comparison.divergence is not None:
            text += f"; KL divergence {comparison.divergence:.3g} nats"
        lines.append(("agreement", text))
    lines += _margins(comparison)
    if comparison.certificate is not None:
        hidden, norms = comparison.certificate.hidden, comparison.certificate.propagated
        text = f"{hidden:.1f} % of the samples provably keep their class, by the change of the "
        text += f"last hidden layer; {norms:.1f} % by weight norms alone"
        lines.append(("certificate", text))
    if after.score is not None:
        text = f"{after.score:.6g}"
        if before is not None and before.score is not None:
            text = f"{before.score:.6g} → {text}"
        if comparison.unhealed is not None and comparison.unhealed.score is not None:
            text += f"; {comparison.unhealed.score:.6g} before {comparison.training}"
        lines.append(("score", text))
    return lines


def _cosines(comparison: Comparison) -> str:
    """The mean cosine with the dense network's embeddings, and its lower tail."""
    cosines = comparison.cosines
    assert cosines is not None
    text = f"mean {cosines.mean():.4f} with the dense embeddings; 5th percentile "
    text += f"{np.quantile(cosines, 0.05):.4f}"
    if comparison.unhealed is not None and comparison.unhealed.accuracy is not None:
        text += f"; {comparison.unhealed.accuracy / 100:.4f} before {comparison.training}"
    return text


def data(comparison: Comparison) -> list[tuple[str, str]]:
    """The data that the scores were measured on."""
    samples = comparison.samples
    if samples is None:
        return []
    scaled = ", byte values divided by 255" if samples.scaled else ""
    return [("data", f"{samples.path}, {len(samples.inputs):,} samples{scaled}")]


def dense(report: Report) -> str:
    """The accuracy or score of a curve's dense network, as the end of a line."""
    before = report.curve[0].comparison.before
    if before is None:
        return ""
    known = before.accuracy is not None and report.curve[0].comparison.cosines is None
    accuracy = f", {before.accuracy:.2f} % accurate" if known else ""
    return accuracy + ("" if before.score is None else f", score {before.score:.6g}")


def _margins(comparison: Comparison) -> list[tuple[str, str]]:
    """The median margin and its 5th percentile: the typical sample, and those near the boundary."""
    if comparison.margins is None:
        return []
    known = [values for values in comparison.margins if values is not None]
    middle, low = (
        " → ".join(f"{np.quantile(values, share):.2f}" for values in known) for share in (0.5, 0.05)
    )
    return [("margin", f"median {middle}; 5th percentile {low}")]
