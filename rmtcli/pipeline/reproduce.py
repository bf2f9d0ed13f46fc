"""Repeat a published experiment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from rmtcli.errors import UsageError
from rmtcli.experiments.base import Experiment, Outcome
from rmtcli.experiments.catalogue import EXPERIMENTS
from rmtcli.files import write_file
from rmtcli.options import option
from rmtcli.report.reproduction import Reproduction


def reproduce(
    name: str,
    data: str | Path,
    *,
    seeds: int = 5,
    rows: str = "*",
    epochs: int | None = None,
    output: str | Path | None = None,
    watch: Callable[[str], object] = lambda line: None,
) -> Reproduction:
    """Repeat a published experiment, with its baselines, over several seeds.

    Args:
        name: one of ``rmtcli.experiments.catalogue.EXPERIMENTS``.
        data: folder with the four IDX files of MNIST or Fashion-MNIST.
        seeds: number of runs per row, with seeds 0, 1, ….
        rows: glob over the titles of rows to run; a row from which another takes its size is run
            as well.
        epochs: passes over the data, in place of the experiment's own number; schedules stay as
            they are.
        output: ``.json`` file for the results, written after each run. Runs that it holds already
            are not repeated.
        watch: takes a line of text after each run.

    Raises:
        UsageError: an unknown experiment, row or folder, or a file of other results.
        EvaluationError: the images cannot be read.
        TrainingError: a loss that is no longer finite.
    """
    experiment = _experiment(name, epochs)
    chosen = _chosen(experiment, rows)
    if seeds < 1:
        raise UsageError(f"{option('seeds')} must be at least 1, not {seeds}")
    folder = Path(data)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder: name one with the four IDX files")
    result = _started(experiment, folder.name, output)
    from rmtcli.experiments.run import Images, run  # needs torch

    images = Images.read(folder)
    outcomes = {title: dict(runs) for title, runs in result.outcomes.items()}
    for seed in range(seeds):
        for row in experiment.rows:
            if row.title not in chosen or seed in outcomes.get(row.title, {}):
                continue
            sizes = {
                title: runs[seed].parameters for title, runs in outcomes.items() if seed in runs
            }
            for title, outcome in run(row, seed, images, sizes):
                outcomes.setdefault(title, {})[seed] = outcome
                watch(_line(title, seed, outcome))
            result = replace(result, outcomes=_ordered(outcomes, experiment))
            if output is not None:
                text = result.to_json()
                write_file(Path(output), lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]
    others = {row.title for row in experiment.rows} - chosen
    shown = {title: runs for title, runs in outcomes.items() if title not in others}
    return replace(result, outcomes=_ordered(shown, experiment))


def _experiment(name: str, epochs: int | None) -> Experiment:
    if name not in EXPERIMENTS:
        raise UsageError(f"unknown experiment '{name}': choose one of {', '.join(EXPERIMENTS)}")
    if epochs is None:
        return EXPERIMENTS[name]
    if epochs < 1:
        raise UsageError(f"{option('epochs')} must be at least 1, not {epochs}")
    rows = (replace(row, epochs=epochs) for row in EXPERIMENTS[name].rows)
    return replace(EXPERIMENTS[name], rows=tuple(rows))


def _chosen(experiment: Experiment, pattern: str) -> set[str]:
    """Titles that match the pattern, and the titles of rows from which these take their size."""
    titles = {row.title for row in experiment.rows if fnmatchcase(row.title, pattern)}
    if not titles:
        known = ", ".join(row.title for row in experiment.rows)
        raise UsageError(f"no row of {experiment.name} is called '{pattern}': they are {known}")
    needed = {row.magnitude_like for row in experiment.rows if row.title in titles}
    return titles | {title for title in needed if title is not None}


def _started(experiment: Experiment, data: str, output: str | Path | None) -> Reproduction:
    """The results in the output file of an earlier run; empty without one."""
    if output is None:
        return Reproduction(experiment, data, {})
    path = Path(output)
    if path.suffix != ".json":
        raise UsageError(f"{path}: results are kept in a .json file")
    if not path.exists():
        return Reproduction(experiment, data, {})
    try:
        return Reproduction.from_json(path.read_text(encoding="utf-8"), experiment, data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path}: {error}: name another file, or move it away") from None


def _ordered(
    outcomes: dict[str, dict[int, Outcome]], experiment: Experiment
) -> dict[str, dict[int, Outcome]]:
    """The outcomes in the experiment's order of rows; those of truncated networks come last."""
    order = {row.title: i for i, row in enumerate(experiment.rows)}
    return dict(sorted(outcomes.items(), key=lambda item: order.get(item[0], len(order))))


def _line(title: str, seed: int, outcome: Outcome) -> str:
    ranks = " ".join(f"{n.removesuffix('.weight')} {r}" for n, r in outcome.ranks.items())
    return f"seed {seed}  {title}: {outcome.test:.2f} %, {outcome.parameters:,} parameters  {ranks}"
