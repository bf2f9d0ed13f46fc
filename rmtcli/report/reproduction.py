"""Results of an experiment: one row per way of training, with means over the seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from rmtcli.experiments.base import Experiment, Outcome
from rmtcli.report.record import SCHEMA_VERSION
from rmtcli.version import __version__

HEADINGS: tuple[str, ...] = ("network", "runs", "test, %", "− dense", "train, %", "ranks")
HEADINGS += ("parameters", "left", "published")


@dataclass(frozen=True, slots=True)
class Reproduction:
    """Results of an experiment.

    Attributes:
        experiment: the experiment: its rows and their source.
        data: directory of the images.
        outcomes: title of a row -> seed -> outcome of the run.
    """

    experiment: Experiment
    data: str
    outcomes: Mapping[str, Mapping[int, Outcome]]

    def rows(self) -> list[list[str]]:
        """One row per way of training: accuracy, its difference from the dense row, and size.

        Accuracies are mean ± standard deviation over the seeds. The difference is the mean of the
        differences per seed, ± its standard error.
        """
        published = {row.title: row.published for row in self.experiment.rows}
        published |= self.experiment.published
        table = []
        for title, runs in self.outcomes.items():
            size = np.mean([run.parameters for run in runs.values()])
            share = 100 * size / next(iter(runs.values())).dense
            table.append(
                [
                    title,
                    str(len(runs)),
                    _spread([run.test for run in runs.values()]),
                    self._distance(title),
                    _spread([run.train for run in runs.values()]),
                    _ranks(list(runs.values())),
                    f"{size:,.0f}",
                    f"{share:.1f} %",
                    published.get(title, ""),
                ]
            )
        return table

    def _distance(self, title: str) -> str:
        reference = self.experiment.reference(title)
        if reference == title or reference not in self.outcomes:
            return ""
        runs, dense = self.outcomes[title], self.outcomes[reference]
        differences = [runs[seed].test - dense[seed].test for seed in runs if seed in dense]
        if not differences:
            return ""
        error = np.std(differences, ddof=1) / math.sqrt(len(differences)) if differences[1:] else 0
        return f"{np.mean(differences):+.2f}" + (f" ± {error:.2f}" if differences[1:] else "")

    def to_json(self, command: str | None = None, *, ascii_only: bool = False) -> str:
        """All runs as JSON text; :meth:`from_json` reads it.

        Args:
            command: the command line that made it, or None from Python.
            ascii_only: whether to write every other character as an escape.
        """
        record = {
            "schema_version": SCHEMA_VERSION,
            "rmtcli": __version__,
            "command": command,
            "experiment": self.experiment.name,
            "source": self.experiment.source,
            "data": self.data,
            "settings": {row.title: asdict(row) for row in self.experiment.rows},
            "outcomes": {
                title: {str(seed): asdict(outcome) for seed, outcome in runs.items()}
                for title, runs in self.outcomes.items()
            },
        }
        return json.dumps(record, indent=1, ensure_ascii=ascii_only)

    @staticmethod
    def from_json(text: str, experiment: Experiment, data: str) -> Reproduction:
        """The results that an earlier run wrote.

        Args:
            text: the JSON text.
            experiment: the experiment that they must belong to.
            data: directory of the images that they must come from.

        Raises:
            ValueError: the text is a record of another experiment, other data or other settings.
        """
        record = json.loads(text)
        if not isinstance(record, dict) or record.get("experiment") != experiment.name:
            raise ValueError(f"not a record of {experiment.name}")
        if record.get("data") != data:
            raise ValueError(f"a record for other data: {record.get('data')}")
        for row in experiment.rows:
            own = json.loads(json.dumps(asdict(row)))
            if record["settings"].get(row.title, own) != own:
                raise ValueError(f"a record with other settings for '{row.title}'")
        outcomes = {
            title: {
                int(seed): replace(Outcome(**run), curve=tuple(run["curve"]))
                for seed, run in runs.items()
            }
            for title, runs in record["outcomes"].items()
        }
        return Reproduction(experiment, data, outcomes)


def _ranks(runs: Sequence[Outcome]) -> str:
    """The smallest and the largest rank of each layer."""
    ranks_of = {name: [run.ranks[name] for run in runs] for name in runs[0].ranks}
    ends = [(min(ranks), max(ranks)) for ranks in ranks_of.values()]
    return ", ".join(f"{low}" if low == high else f"{low} to {high}" for low, high in ends)


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
