"""Conditions under which a run fails: ``accuracy.drop > 0.5``.

simpleeval (the extra ``ci``) evaluates them: names, numbers, comparisons, ``and``, ``or``, ``not``
and arithmetic. Nothing can be called.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmtcli.errors import UsageError, first_line
from rmtcli.report.base import Report

#: The fields that conditions may use, with their meanings. The values are those of JSON.
FIELDS = {
    "params.before": "parameters of the input",
    "params.after": "parameters after pruning",
    "params.ratio": "parameters after pruning, as a share of those before",
    "bytes.before": "bytes of the input's tensors; shared storage counts once",
    "bytes.after": "bytes of the tensors after pruning",
    "bytes.ratio": "bytes of the tensors after pruning, as a share of those before",
    "adapter.bytes": "bytes of an adapter's tensors",
    "adapter.kept": "share of the change (in squared norm) or of the loss that an adapter contains",
    "layers.count": "layers",
    "layers.pruned": "layers that are pruned",
    "layers.unfit": "layers whose fit is not reliable; output heads are not counted",
    "accuracy.before": "accuracy of the dense network, in percent; 100 times R² for regression",
    "accuracy.after": "accuracy of the pruned or evaluated network, in percent; 100 times the mean "
    "cosine of embeddings, or R² for regression",
    "accuracy.drop": "loss of accuracy, cosine or R², in points",
    "accuracy.agreement": "share of samples to which both networks assign the same class, or of "
    "labels that both decide alike, in percent",
    "accuracy.kl_divergence": "divergence from the dense network, in nats per sample or label",
    "accuracy.squared_error": "mean squared error of the pruned or evaluated network's numbers",
    "accuracy.relative_change": "root mean square change of the dense network's numbers, as a "
    "share of their spread",
    "accuracy.cosine": "mean cosine with the dense network's embeddings",
    "accuracy.perplexity": "perplexity of the pruned or evaluated network",
    "accuracy.score": "your own score of the pruned or evaluated network",
    "latency.ratio": "time after pruning as a share of the time before, at the --batch where it "
    "is largest; of the whole network if it was run, otherwise of its linear layers",
}
_OPERATORS: dict[type, Any] = {
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition under which a run fails, checked before any work is done.

    Attributes:
        text: as the user wrote it.
        names: the fields that it uses.
        known: the fields that it may use, with their meanings.

    Raises:
        UsageError: it is not a condition, or uses an unknown field.
    """

    text: str
    names: tuple[str, ...] = ()
    known: Mapping[str, str] | None = None

    @staticmethod
    def parse(text: str, known: Mapping[str, str] | None = None) -> Condition:
        """A condition over ``known`` fields; those of a report by default."""
        known = FIELDS if known is None else known
        try:
            tree = ast.parse(text.strip(), mode="eval")
        except (SyntaxError, ValueError):
            raise UsageError(
                f"--fail-if '{text}': not a condition: write it as {next(iter(known))} > 0.5"
            ) from None
        names = tuple(dict.fromkeys(_names(tree.body)))
        for name in names:
            if name not in known:
                raise UsageError(
                    f"--fail-if '{text}': unknown field '{name}': choose one of {', '.join(known)}"
                )
        condition = Condition(text, names, known)
        if not names or not isinstance(condition._value(dict.fromkeys(known, 1.0)), bool):
            raise UsageError(f"--fail-if '{text}': compare a field with a number")
        return condition

    def holds(self, values: Mapping[str, float | None]) -> str | None:
        """The reason for which a run fails, in words; None if it does not fail.

        Raises:
            UsageError: a field was not measured.
        """
        for name in self.names:
            if values.get(name) is None:
                raise UsageError(f"--fail-if '{self.text}': {name} was not measured")
        if not self._value(values):
            return None
        measured = ", ".join(f"{name} is {values[name]:.6g}" for name in self.names)
        return f"{self.text} ({measured})"

    def _value(self, values: Mapping[str, float | None]) -> Any:
        from simpleeval import SimpleEval

        nested: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            group, _, field = name.partition(".")
            nested.setdefault(group, {})[field] = value
        try:
            value = SimpleEval(operators=_OPERATORS, functions={}, names=nested).eval(self.text)
        # Any other Python syntax, and everything that simpleeval refuses.
        except Exception as error:
            raise UsageError(
                f"--fail-if '{self.text}': not a condition: {first_line(error)}"
            ) from None
        return value


@dataclass(frozen=True, slots=True)
class Outcome:
    """A condition and whether it fails the run.

    Attributes:
        condition: its text, as the user wrote it.
        failure: the reason for which the run fails, in words; None if it does not fail.
    """

    condition: str
    failure: str | None


def values_of(report: Report) -> dict[str, float | None]:
    """The values of a report's fields for conditions; None where one was not measured."""
    before, after = report.parameters
    stored, smaller = report.tensor_bytes
    record = report.to_dict()
    accuracy = record["accuracy"]
    cosine, perplexity = accuracy.get("cosine"), accuracy.get("perplexity") or {}
    unfit = [p for p in report.layers if not p.layer.head and not p.fit.verdict.trusted]
    values: dict[str, float | None] = {
        "params.before": before,
        "params.after": after,
        "params.ratio": after / before if before else None,
        "bytes.before": stored,
        "bytes.after": smaller,
        "bytes.ratio": smaller / stored if stored else None,
        "adapter.bytes": None if report.extracted is None else report.extracted.bytes,
        "adapter.kept": None if report.extracted is None else report.extracted.kept,
        "layers.count": len(report.layers),
        "layers.pruned": len(report.pruned),
        "layers.unfit": len(unfit),
        "accuracy.cosine": cosine and cosine["mean"],
        "accuracy.perplexity": perplexity.get("after"),
        "accuracy.squared_error": (accuracy.get("squared_error") or {}).get("after"),
        "accuracy.score": (accuracy.get("score") or {}).get("after"),
    }
    ratios = [latency.ratio for latency in report.latency if latency.ratio is not None]
    values["latency.ratio"] = max(ratios, default=None)
    for name in ("before", "after", "drop", "agreement", "kl_divergence", "relative_change"):
        values[f"accuracy.{name}"] = accuracy.get(name)
    return values


def outcomes(
    conditions: Sequence[Condition], values: Mapping[str, float | None]
) -> tuple[Outcome, ...]:
    """Check every condition.

    Args:
        conditions: the conditions, in the user's order.
        values: field -> its value; None if it was not measured.

    Raises:
        UsageError: a condition names a field that was not measured.
    """
    return tuple(Outcome(condition.text, condition.holds(values)) for condition in conditions)


def reasons(conditions: Sequence[Condition], values: Mapping[str, float | None]) -> list[str]:
    """The reasons for which a run fails; empty if it does not fail.

    Raises:
        UsageError: a condition names a field that was not measured.
    """
    return failures(outcomes(conditions, values))


def failures(outcomes: Iterable[Outcome]) -> list[str]:
    """The reasons for which a run fails, of all outcomes that do."""
    return [outcome.failure for outcome in outcomes if outcome.failure is not None]


def _names(node: ast.AST) -> Iterator[str]:
    """The dotted names in an expression."""
    if isinstance(node, ast.Attribute | ast.Name | ast.Call | ast.Subscript):
        yield ast.unparse(node)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _names(child)
