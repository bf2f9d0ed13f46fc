"""A report as JUnit XML, which every CI server shows (the extra ``ci``)."""

from __future__ import annotations

from rmtcli.report.base import Report
from rmtcli.report.formatting import shown
from rmtcli.report.renderers.base import Context, Renderer
from rmtcli.report.summary import summary


def to_junit(report: Report, context: Context) -> str:
    """One test case per condition and one per layer; a layer without a trusted fit is skipped."""
    from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite

    suite = TestSuite(f"rmtcli {report.action}")
    for label, text in summary(report):
        suite.add_property(label, text)
    for outcome in context.outcomes:
        case = TestCase(shown(outcome.condition), "fail-if")
        if outcome.failure is not None:
            case.result = [Failure(shown(outcome.failure))]
        suite.add_testcase(case)
    for plan in report.layers:
        case = TestCase(shown(plan.layer.name), "layers")
        if not plan.layer.head and not plan.fit.verdict.trusted:
            case.result = [Skipped(plan.fit.verdict.value)]
        suite.add_testcase(case)
    document = JUnitXml()
    document.add_testsuite(suite)
    written: bytes = document.tostring()  # type: ignore[no-untyped-call]
    return written.decode("utf-8")


JUNIT = Renderer("JUnit", ".xml", to_junit, needs=("junitparser",), extra="ci")
