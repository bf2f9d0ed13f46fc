"""Perplexity against bytes of a causal language model: docs/benchmarks-transformers.md.

    pip install transformers sympy matplotlib
    python -m benchmarks.perplexity [--folder DIR] [--plot FILE.svg]

The network of benchmarks/language.py, its table of tokens included, in as many bytes as each method
gives it: one budget of bytes over ranks and bits, rounding to nearest, rounding with error
feedback, ranks alone, and 16 bits. Perplexity is measured on text that neither training nor
calibration has seen; bytes are those of all tensors, as a share of those in 32 bits. Prints
Markdown, and draws with ``--plot``.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

import rmtcli
from benchmarks.language import Bench
from benchmarks.networks import print_row
from rmtcli.report.base import Report
from rmtcli.report.plot import save_figure

BUDGETS, RANKS = (25, 13, 10.21, 10, 7), (50,)
FEEDBACK, NEAREST = (8, 4, 3, 2), (8, 6, 4, 3)
#: Method -> its marker.
METHODS = {
    "`--budget-bytes`": "o",
    "error feedback alone": "s",
    "to nearest": "^",
    "ranks alone": "v",
    "16 bits": "D",
}
#: A point: method, the option that gives it, share of the bytes, perplexity.
Point = tuple[str, str, float, float]


def points(bench: Bench) -> Iterator[Point]:
    """Each method at each size."""
    whole = {"keep": "fraction:of=1", "calibration": rmtcli.Calibration("none")}
    fed = rmtcli.Calibration(bench.calibration, stats=bench.folder / "tables.safetensors")
    budgets, feedback, nearest, ranks, halves = METHODS
    for percent in BUDGETS:
        budget = rmtcli.Budget(f"{percent:g}%", "bytes")
        report = bench.prune(budget=budget, calibration=fed)
        yield _point(budgets, f"`--budget-bytes {percent:g}%`", report)
    for bits in FEEDBACK:
        report = bench.prune(**whole | {"calibration": fed}, bits=bits)
        yield _point(feedback, f"{bits} bits", report)
    for bits in NEAREST:
        yield _point(nearest, f"{bits} bits", bench.prune(**whole, bits=bits))
    for percent in RANKS:
        budget = rmtcli.Budget(f"{percent:g}%", "bytes")
        report = bench.prune(budget=budget, bits="none", layout="pivoted", calibration=fed)
        yield _point(ranks, f"pivoted, `--budget-bytes {percent:g}% --bits none`", report)
    report = rmtcli.evaluate(half(bench), evaluation=bench.evaluation)
    yield halves, "float16", 50.0, _perplexity(report)


def _point(method: str, option: str, report: Report) -> Point:
    before, after = report.tensor_bytes
    return method, option, 100 * after / before, _perplexity(report)


def _perplexity(report: Report) -> float:
    assert report.comparison is not None
    assert report.comparison.after.perplexity is not None
    return report.comparison.after.perplexity


def half(bench: Bench) -> Path:
    """The dense network with all tensors in 16 bits."""
    target = bench.folder / "half"
    shutil.copytree(bench.source, target, dirs_exist_ok=True)
    tensors = load_file(bench.source / "model.safetensors")
    halves = {name: values.astype(np.float16) for name, values in tensors.items()}
    save_file(halves, target / "model.safetensors", {"format": "pt"})
    return target


def draw(every: list[Point], dense: float, path: Path) -> None:
    """Draw perplexity against bytes, both on logarithmic axes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.8), layout="constrained")
    axes = figure.subplots()
    for method, marker in METHODS.items():
        own = sorted((share, value) for name, _, share, value in every if name == method)
        label = method.strip("`")
        axes.plot(*zip(*own, strict=True), marker=marker, markersize=4, label=label)
    axes.axhline(dense, color="0.4", linestyle="--", linewidth=1, label="dense, 32 bits")
    axes.set(xscale="log", yscale="log", ylim=(0.98 * dense, 1.4 * dense))
    axes.set(xlabel="bytes of all tensors, % of 32 bits", ylabel="perplexity")
    for axis, ticks in ((axes.xaxis, (7, 10, 13, 25, 50)), (axes.yaxis, range(130, 181, 10))):
        axis.set_ticks(ticks, [str(tick) for tick in ticks])
        axis.set_ticks([], minor=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with rc_context({"svg.fonttype": "none"}):
        save_figure(figure, path)


def main() -> None:
    """Compress the network in each way, print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="directory for text, network and statistics")
    parser.add_argument("--plot", type=Path, help="file of the figure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(arguments.folder or Path(name), embeddings=True)
        dense = _perplexity(rmtcli.evaluate(bench.source, evaluation=bench.evaluation))
        print_row("method", "option", "bytes", "perplexity")
        print_row(*["---"] * 4)
        print_row("dense", "float32", "100 %", f"{dense:.2f}")
        every = []
        for point in points(bench):
            every.append(point)
            print_row(*point[:2], f"{point[2]:.1f} %", f"{point[3]:.2f}")
        if arguments.plot is not None:
            draw(every, dense, arguments.plot)


if __name__ == "__main__":
    main()
