"""A report as JUnit XML, which every CI server shows (the extra ``ci``)."""

from __future__ import annotations

import re

from rmtcli.report.base import Report
from rmtcli.report.renderers.base import Context, Renderer
from rmtcli.report.rows import summary

#: What XML 1.0 cannot hold.
_CONTROL = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(report: Report, context: Context) -> str:
    """One test case per condition and one per layer; a layer without a trusted fit is skipped."""
    from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite

    suite = TestSuite(_clean(f"rmtcli {report.action}"))
    for label, text in summary(report):
        suite.add_property(_clean(label), _clean(text))
    for outcome in context.outcomes:
        case = TestCase(_clean(outcome.condition), "fail-if")
        if outcome.failure is not None:
            case.result = [Failure(_clean(outcome.failure))]
        suite.add_testcase(case)
    for plan in report.layers:
        case = TestCase(_clean(plan.layer.name), "layers")
        if not plan.layer.head and not plan.fit.verdict.trusted:
            case.result = [Skipped(plan.fit.verdict.value)]
        suite.add_testcase(case)
    document = JUnitXml()
    document.add_testsuite(suite)
    written: bytes = document.tostring()  # type: ignore[no-untyped-call]
    return written.decode("utf-8")


def _clean(text: str) -> str:
    """Characters that XML cannot hold are spelled out."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


JUNIT = Renderer("JUnit", ".xml", to_junit, needs=("junitparser",), extra="ci")
