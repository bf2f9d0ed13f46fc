"""A report as JUnit XML, which every CI server shows (the extra ``ci``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rmtcli.report.base import Report
from rmtcli.report.difference import Difference
from rmtcli.report.formatting import shown
from rmtcli.report.renderers.base import Context, Renderer
from rmtcli.report.summary import summary


def to_junit(report: Report, context: Context) -> str:
    """One test case per condition and one per layer; a layer without a trusted fit is skipped."""
    cases = {
        shown(plan.layer.name): ""
        if plan.layer.head or plan.fit.verdict.trusted
        else plan.fit.verdict.value
        for plan in report.layers
    }
    return _document(f"rmtcli {report.action}", summary(report), context, cases)


def difference_to_junit(difference: Difference, context: Context) -> str:
    """One test case per condition and one per layer."""
    cases = {shown(layer.name): "" for layer in difference.layers}
    return _document("rmtcli diff", difference.summary(), context, cases)


def _document(
    title: str, facts: Sequence[tuple[str, str]], context: Context, layers: Mapping[str, str]
) -> str:
    """The document: facts as properties, conditions, and layers with why they are skipped."""
    from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite

    suite = TestSuite(title)
    for label, text in facts:
        suite.add_property(label, text)
    for outcome in context.outcomes:
        case = TestCase(shown(outcome.condition), "fail-if")
        if outcome.failure is not None:
            case.result = [Failure(shown(outcome.failure))]
        suite.add_testcase(case)
    for name, why in layers.items():
        case = TestCase(name, "layers")
        if why:
            case.result = [Skipped(why)]
        suite.add_testcase(case)
    document = JUnitXml()
    document.add_testsuite(suite)
    written: bytes = document.tostring()  # type: ignore[no-untyped-call]
    return written.decode("utf-8")


JUNIT = Renderer("JUnit", ".xml", to_junit, difference_to_junit, needs=("junitparser",))
