"""A report as JUnit XML, which every CI server shows (the extra ``ci``)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rmtcli.report.base import Report
from rmtcli.report.extras import check_extra
from rmtcli.report.rows import summary

#: What XML 1.0 cannot hold.
_CONTROL = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def check_junit() -> None:
    """Make sure, before any work, that JUnit files can be written.

    Raises:
        UsageError: junitparser is not installed.
    """
    check_extra("JUnit reports need", "junitparser", extra="ci")


def to_junit(report: Report, conditions: Sequence[tuple[str, str | None]]) -> str:
    """A test case a condition, and one a layer, skipped where its fit cannot be relied on.

    Args:
        report: the report.
        conditions: each condition, and the reason for which it fails the run, or None.
    """
    from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite

    suite = TestSuite(_clean(f"rmtcli {report.action}"))
    for label, text in summary(report):
        suite.add_property(_clean(label), _clean(text))
    for condition, reason in conditions:
        case = TestCase(_clean(condition), "fail-if")
        if reason is not None:
            case.result = [Failure(_clean(reason))]
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
