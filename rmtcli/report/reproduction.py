"""What came of an experiment: a row a way of training, means over the seeds."""

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
    """What came of an experiment.

    Attributes:
        experiment: its rows and where they are from.
        data: folder of the images.
        outcomes: title of a row -> seed -> what came out.
    """

    experiment: Experiment
    data: str
    outcomes: Mapping[str, Mapping[int, Outcome]]

    def rows(self) -> list[list[str]]:
        """A row each: runs, test accuracy and its distance from the first row's, and size.

        Accuracies are mean ± standard deviation over the seeds; the distance is a mean of
        differences seed by seed, ± its standard error.
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
        """Everything, run by run; :meth:`from_json` reads it again."""
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
        """What an earlier run wrote.

        Raises:
            ValueError: it is no record of this experiment.
        """
        record = json.loads(text)
        if not isinstance(record, dict) or record.get("experiment") != experiment.name:
            raise ValueError(f"not a record of {experiment.name}")
        if record.get("data") != data:
            raise ValueError(f"a record of other data: {record.get('data')}")
        for row in experiment.rows:
            own = json.loads(json.dumps(asdict(row)))
            if record["settings"].get(row.title, own) != own:
                raise ValueError(f"a record of other settings of '{row.title}'")
        outcomes = {
            title: {
                int(seed): replace(Outcome(**run), curve=tuple(run["curve"]))
                for seed, run in runs.items()
            }
            for title, runs in record["outcomes"].items()
        }
        return Reproduction(experiment, data, outcomes)


def _ranks(runs: Sequence[Outcome]) -> str:
    """Of each layer, the smallest and the largest rank."""
    found = {name: [run.ranks[name] for run in runs] for name in runs[0].ranks}
    ends = [(min(ranks), max(ranks)) for ranks in found.values()]
    return ", ".join(f"{low}" if low == high else f"{low} to {high}" for low, high in ends)


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
