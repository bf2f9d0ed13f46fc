"""Layouts at equal size: rounding errors and forward times, tables of docs/benchmarks-speed.md.

    python -m benchmarks.layouts

Layers of random weights are truncated to the rank at which each layout holds a share of the dense
layer's numbers. Rounding errors are those of the stored weight, relative to the truncated one at
the same rank; times are medians of one run, in turns, as shares of the dense layer's. Prints
Markdown.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.networks import print_row
from rmtcli.arrays import FloatArray
from rmtcli.checkpoint.dtypes import decode, encode
from rmtcli.layers import Layer
from rmtcli.layouts import LAYOUTS, Layout
from rmtcli.running.clock import Clock
from rmtcli.spectra import Factors, factorize, pivots, spectrum

SHAPES = ((384, 384), (1536, 384), (384, 1536), (1000, 784), (2048, 2048))
SHARES = (0.35, 0.5, 0.7)
TYPES = ("F32", "F16", "BF16")
BATCHES = (1, 32, 512)


def rank_of(layout: Layout, shape: tuple[int, int], share: float) -> int:
    """The largest rank at which a layout holds at most a share of the dense layer's numbers."""
    outputs, inputs = shape
    ranks = range(1, layout.largest_rank(outputs, inputs) + 1)
    return max(r for r in ranks if layout.values(outputs, inputs, r) <= share * outputs * inputs)


def rounded(values: FloatArray, dtype: str) -> FloatArray:
    """Values as a type stores them."""
    return decode(encode(values, dtype)).astype(np.float64)


def errors(factors: Factors, dtype: str) -> tuple[float, float]:
    """Relative errors of the product when factors, or pivot rows and coefficients, are rounded."""
    product = factors.product
    rows = pivots(factors.left, factors.right)
    pairs = ((factors.left, factors.right), (rows.coefficients, rows.core))
    first, second = (
        float(np.linalg.norm(rounded(a, dtype) @ rounded(b, dtype) - product)) for a, b in pairs
    )
    norm = float(np.linalg.norm(product))
    return first / norm, second / norm


def main() -> None:
    """Print both tables."""
    rng = np.random.default_rng(0)
    print_row("layer", "rank", *(f"{dtype}: factored, pivoted" for dtype in TYPES))
    print_row(*["---"] * (2 + len(TYPES)))
    for shape in SHAPES:
        # Singular values that fall by a factor of 20, as those of trained layers do.
        weight = rng.standard_normal(shape) * np.exp(-3 * np.arange(shape[1]) / shape[1])
        rank = rank_of(LAYOUTS.parse("pivoted"), shape, 0.5)
        factors = factorize(weight, spectrum(weight, vectors=True), rank)
        cells = (" ".join(f"{error:.1e}" for error in errors(factors, dtype)) for dtype in TYPES)
        print_row(f"{shape[0]} × {shape[1]}", str(rank), *cells)
    print()
    torch.set_num_threads(1)
    layouts = {name: LAYOUTS.parse(name) for name in ("factored", "pivoted")}
    print_row("layer", "numbers", *(f"{name}, batch {b}" for b in BATCHES for name in layouts))
    print_row(*["---"] * (2 + len(layouts) * len(BATCHES)))
    clocks = [Clock(batch, "cpu") for batch in BATCHES]
    for shape in SHAPES:
        layer = Layer("a.weight", shape, "F32", lambda: encode(np.zeros(0), "F32"))
        for share in SHARES:
            ratios = []
            for clock in clocks:
                for layout in layouts.values():
                    dense, small = clock.pair(layer, layout, rank_of(layout, shape, share))
                    ratios.append(f"{small.median / dense.median:.2f}")
            print_row(f"{shape[0]} × {shape[1]}", f"{share:.0%}", *ratios)


if __name__ == "__main__":
    main()
