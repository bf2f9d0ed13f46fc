"""Mistakes on the command line, in the program's own words."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

import typer

from rmtcli.errors import RmtcliError

#: The base of all of Typer's errors of usage, which Typer does not export itself.
UsageFailure: Any = typer.BadParameter.__bases__[0]
#: So many commands are listed at most.
FEW = 5
#: Options that do not exist, and may be expected -> what to write instead.
_MEANT = {
    "rank": "--keep rank:k=N",
    "energy": "--keep energy:fraction=SHARE",
    "fraction": "--keep fraction:of=SHARE",
    "threshold": "--keep relative:threshold=SHARE",
    "ratio": "--budget N%",
    "size": "--budget N%",
    "sparsity": "--budget N%",
    "target": "--budget N%",
    "compression": "--budget N%",
    "parameters": "--budget N",
    "params": "--budget N",
    "bytes": "--budget-bytes N%",
    "macs": "--budget-macs N%",
    "flops": "--budget-macs N%",
    "latency": "--budget-latency N%",
    "drop": "--max-drop POINTS",
    "max-loss": "--max-drop POINTS",
    "tolerance": "--max-drop POINTS",
    "dataset": "--data FILE",
    "test": "--data FILE",
    "val": "--data FILE",
    "labels": "--data FILE, with the labels as its 'targets'",
    "train": "--calib FILE",
    "calibration": "--calib FILE",
    "samples": "--calib FILE",
    "text": "--calib FILE",
    "texts": "--calib FILE",
    "gpu": "--device cuda",
    "cuda": "--device cuda",
    "out": "--output FILE",
    "save": "--output FILE",
    "overwrite": "--force",
    "quantize": "--bits 8",
    "bit": "--bits 8",
    "int8": "--bits 8",
    "method": "--edge NAME or --keep NAME",
    "rule": "--keep NAME",
    "layers": "--include NAME",
    "only": "--include NAME",
    "skip": "--exclude NAME",
    "ignore": "--exclude NAME",
    "metric-fn": "--eval MODULE:FUNCTION",
    "score": "--eval MODULE:FUNCTION",
    "network": "--model MODULE:FACTORY",
    "arch": "--model MODULE:FACTORY",
    "finetune": "--heal N, or the command finetune",
    "retrain": "--heal N, or the command finetune",
    "html": "--report FILE.html",
    "seed": "",
}
#: Commands that do not exist, and may be expected -> what to write instead.
_COMMANDS = {
    "compress": "prune",
    "quantize": "prune --bits 8",
    "fit": "analyze",
    "inspect": "info",
    "show": "info",
    "compare": "diff",
    "eval": "evaluate",
    "train": "finetune",
    "restore": "densify",
    "plot": "analyze FILE --plot DIR",
    "report": "analyze FILE --report FILE.html",
    "test": "verify",
}
#: What Typer says of a number, in its versions -> what it must be.
_NUMBERS = {
    r"valid integer": "a whole number",
    r"valid (?:number|float)": "a number",
    r"(?:greater than or equal to|range x>=) ?(\S+?)\.?$": "at least {}",
}


def words_of(error: Any) -> str:
    """One of Typer's errors of usage, as a line that says what to write, or where to look."""
    text = _with_cure(error) or error.format_message().rstrip(".")
    where = f"see '{error.ctx.command_path} --help'" if error.ctx else ""
    text = f"{text[:1].lower()}{text[1:]}"
    return f"{text} ({where})" if where else text


def _with_cure(error: Any) -> str | None:
    """The mistake and what to write instead, where that is known."""
    option = getattr(error, "option_name", None)
    if type(error).__name__ == "NoSuchOption" and option:
        return _unknown_option(error, option)
    if type(error).__name__ == "BadParameter" and error.param is not None:
        return _wrong_value(error)
    words = str(error.format_message())
    if words.startswith("No such command"):
        name = words.split("'")[1]
        if name in _COMMANDS:
            return f"no such command '{name}': write rmtcli {_COMMANDS[name]}"
    return None


def _unknown_option(error: Any, option: str) -> str | None:
    """What an option that does not exist may have been meant to be."""
    name, taken = option.lstrip("-").replace("_", "-"), _options(error.ctx.command)
    meant = _MEANT.get(name)
    if meant and meant.split()[0] in taken:
        return f"no such option {option}: write {meant}"
    commands = getattr(getattr(error.ctx.parent, "command", None), "commands", {})
    others = [other for other, command in commands.items() if option in _options(command)]
    if 0 < len(others) <= FEW:
        return f"no such option {option}: it is an option of rmtcli {', '.join(others)}"
    near = get_close_matches(option, taken, n=2, cutoff=0.7)
    hint = f": did you mean {' or '.join(near)}?" if near else ""
    return f"no such option {option}{hint}"


def _options(command: Any) -> set[str]:
    return {name for p in command.params for name in getattr(p, "opts", ())}


def _wrong_value(error: Any) -> str | None:
    """What a value must be; None if Typer's own words say it better."""
    faults: Any = getattr(error.__cause__, "errors", list)()
    own = faults[0].get("ctx", {}).get("error") if faults else None
    if isinstance(own, RmtcliError):
        return str(own)
    for pattern, kind in _NUMBERS.items():
        if match := re.search(pattern, str(error.message)):
            value = f", not '{faults[0]['input']}'" if faults else ""
            return f"{error.param.opts[0]} must be {kind.format(*match.groups())}{value}"
    return None
