"""Steps of a pruner as rows of a table, and to and from files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rmtcli.errors import UsageError
from rmtcli.files import write_file
from rmtcli.training.step import Change, Step

Row = Mapping[str, Any]

#: Endings of files that hold a log.
ENDINGS = (".csv", ".json")
_CHANGE = [field.name for field in fields(Change)]
_NEEDED = {"time": int, "parameters": int, "layer": str, "rank": int}
_WORDS = ("layer", "action", "reason")


def rows(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """A row for each layer and time; where no layer was looked at, one that names only its rank."""
    found: list[dict[str, Any]] = []
    for step in steps:
        changes = {change.layer: asdict(change) for change in step.changes}
        for layer, rank in step.ranks.items():
            own = changes.get(layer, {"layer": layer, "rank": rank})
            found.append({"time": step.time, "parameters": step.parameters, **own, **step.metrics})
    return found


def write_log(table: Sequence[Row], path: str | Path) -> None:
    """Write rows as ``.csv`` or ``.json``, whole or not at all; an older log is replaced.

    Raises:
        UsageError: another ending.
    """
    path = check_ending(path)
    if path.suffix == ".json":
        text = json.dumps(list(table), indent=1, ensure_ascii=False) + "\n"
    else:
        metrics = {key: None for row in table for key in row if key not in _CHANGE}
        names = [*(name for name in metrics if name in ("time", "parameters")), *_CHANGE]
        names += [name for name in metrics if name not in names]
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
        text = buffer.getvalue()
    write_file(path, lambda file: file.write(text.encode()))


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a log, numbers as numbers.

    Raises:
        UsageError: no such file, another ending, or no log.
    """
    path = check_ending(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            table: Any = json.loads(text)
        else:
            table = [_numbers(row) for row in csv.DictReader(io.StringIO(text))]
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a log of RMTPruner ({error})") from None
    if not (isinstance(table, list) and table and all(map(_is_row, table))):
        raise UsageError(f"{path}: not a log of RMTPruner: a row has {', '.join(_NEEDED)}")
    return list(table)


def check_ending(path: str | Path) -> Path:
    """The path, if it ends as a log does.

    Raises:
        UsageError: it does not.
    """
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise UsageError(f"{path}: a log's name must end in {' or '.join(ENDINGS)}")
    return path


def _is_row(row: object) -> bool:
    return isinstance(row, dict) and all(
        isinstance(row.get(k), kind) for k, kind in _NEEDED.items()
    )


def _numbers(row: Mapping[str | None, str]) -> dict[str, Any]:
    """A row of a CSV file: empty cells are left out."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        if key is None:
            raise ValueError("a row has more cells than the first one names")
        if key in _WORDS or not value:
            found |= {key: value} if value else {}
        else:
            found[key] = float(value) if set(value) & set(".einf") else int(value)
    return found
