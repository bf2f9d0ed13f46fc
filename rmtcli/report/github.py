"""What a run says to GitHub Actions: annotations, and a summary of the step."""

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
    """Annotate the run and add to the step's summary, where GitHub runs this.

    Args:
        title: of the annotations.
        text: gives what was found out, as Markdown; not called elsewhere, as it takes time.
        notes: what a reader must not miss.
        failed: why the run fails; empty where it does not.
        stream: where annotations go; GitHub reads stdout and stderr alike.
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
    """As a workflow command holds it: one line, its signs escaped."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
