"""Hostile layer names, and a report that contains one of them."""

from __future__ import annotations

from pathlib import Path

import torch

import rmtcli
from rmtcli.report.base import Report

NAMES = {
    "markup": "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>.weight",
    "template": "{{ 7*7 }}{% for %}.weight",
    "lines": "a\n| b |\r\n# c\u2028d.weight",
    "terminal": "\x1b[2J\x1b]0;owned\x07\x9b31m.weight",
    "direction": "\u202etxt.exe\u200f\u2066.weight",
    "long": "x" * 300 + ".weight",
    "markdown": "[a](javascript:alert(1))`**_b_**`|c&lt;\\.weight",
    "path": "../../etc/passwd\\C:aux.weight",
}


def hostile_report(name: str, folder: Path) -> Report:
    """An analysis of two layers of noise, one of them with this name."""
    torch.manual_seed(0)
    state = {name: torch.randn(64, 48), "z.weight": torch.randn(64, 64)}
    torch.save(state, folder / "a.pt")
    return rmtcli.analyze(folder / "a.pt")
