"""Annotations and a step summary for GitHub Actions."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO


def tell_github(
    title: str,
    text: Callable[[], str],
    *,
    notes: Sequence[str],
    failed: Sequence[str],
    stream: TextIO,
) -> None:
    """Annotate the run and add to the step's summary, if this runs on GitHub Actions.

    Args:
        title: title of the annotations.
        text: returns the results as Markdown; it takes time, so it is called only on GitHub.
        notes: sentences that a reader must not miss.
        failed: the reasons for which the run fails; empty if it does not fail.
        stream: stream for the annotations; GitHub reads both stdout and stderr.
    """
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return
    for reason in failed:
        stream.write(f"::error title={_property(title)}::{_message(reason)}\n")
    for note in notes:
        stream.write(f"::notice title={_property(title)}::{_message(note)}\n")
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text() + "".join(f"\n**Failed:** {reason}\n" for reason in failed))


def _message(text: str) -> str:
    """A text as a workflow command takes it: on one line, with escapes."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
