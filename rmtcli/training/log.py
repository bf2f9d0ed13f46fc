"""Logs of a pruner: its steps as rows of a table, in CSV or JSON files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rmtcli.errors import MissingFileError, UsageError
from rmtcli.files import write_file
from rmtcli.training.step import Change, Step

Row = Mapping[str, Any]

#: Endings of log files.
ENDINGS = (".csv", ".json")
_CHANGE = [field.name for field in fields(Change)]
_NEEDED = {"time": int, "parameters": int, "layer": str, "rank": int}
_WORDS = ("layer", "action", "reason")


def rows(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """Return one row per layer and step; where no layer was fitted, it has only the rank."""
    table: list[dict[str, Any]] = []
    for step in steps:
        changes = {change.layer: asdict(change) for change in step.changes}
        for layer, rank in step.ranks.items():
            own = changes.get(layer, {"layer": layer, "rank": rank})
            table.append({"time": step.time, "parameters": step.parameters, **own, **step.metrics})
    return table


def write_log(table: Sequence[Row], path: str | Path) -> None:
    """Write rows as ``.csv`` or ``.json``, completely or not at all; replaces an older log.

    Args:
        table: the rows, as :func:`rows` returns them.
        path: the file.

    Raises:
        UsageError: the name has another ending.
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
    """Read the rows of a log, with numbers as numbers.

    Raises:
        UsageError: the file does not exist, has another ending, or is not a log.
    """
    path = check_ending(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            table: Any = json.loads(text)
        else:
            table = [_numbers(row) for row in csv.DictReader(io.StringIO(text))]
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a log of RMTPruner ({error})") from None
    if not (isinstance(table, list) and table and all(map(_is_row, table))):
        raise UsageError(f"{path}: not a log of RMTPruner: a row has {', '.join(_NEEDED)}")
    return list(table)


def check_ending(path: str | Path) -> Path:
    """Return the path if its ending is that of a log.

    Raises:
        UsageError: the name has another ending.
    """
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise UsageError(f"{path}: a log's name must end in {' or '.join(ENDINGS)}")
    return path


def _is_row(row: object) -> bool:
    """Whether a value has the fields that every row of a log has."""
    return isinstance(row, dict) and all(
        isinstance(row.get(k), kind) for k, kind in _NEEDED.items()
    )


def _numbers(row: Mapping[str | None, str]) -> dict[str, Any]:
    """Return a row of a CSV file with its numbers converted and its empty cells left out."""
    converted: dict[str, Any] = {}
    for key, value in row.items():
        if key is None:
            raise ValueError("a row has more cells than the first one names")
        if key in _WORDS or not value:
            converted |= {key: value} if value else {}
        else:
            converted[key] = float(value) if set(value) & set(".einf") else int(value)
    return converted
