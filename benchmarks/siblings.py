"""One right factor for layers that read the same input, or one for each: a table of benchmarks.md.

    python -m benchmarks.siblings [--share 70 50 35] [--folder FOLDER]

MiniLM-L6 as in benchmarks.minilm, two-sided metric, one budget for all layers. Query, key and value
of a block are decomposed together, so that one map to r values serves all three, at equal
parameters. Prints Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.minilm import LAYERS, Bench, minilm
from benchmarks.networks import print_row
from rmtcli import Evaluation, Selection
from rmtcli.allocate import Choice, allocate
from rmtcli.calibration.moments import Moments
from rmtcli.calibration.stats import read_stats
from rmtcli.checkpoint import Checkpoint, Edited, encode, open_checkpoint
from rmtcli.evaluation.score import Scorer
from rmtcli.layers import Layer, find_layers
from rmtcli.metric import GRADIENT_FLOOR, _root
from rmtcli.names import member


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Layers that read the same input, decomposed together: [R₁W₁; R₂W₂; …] C^½ = U S Vᵀ.

    Attributes:
        layers: the layers; one alone is its own group.
        moments: of each.
        roots: R of each, the root of its output gradients' moment.
        basis: U.
        values: S, descending.
    """

    layers: Sequence[Layer]
    moments: Sequence[Moments]
    roots: Sequence[np.ndarray]
    basis: np.ndarray
    values: np.ndarray

    @staticmethod
    def of(layers: Sequence[Layer], moments: Sequence[Moments]) -> Group:
        """The decomposition of some layers."""
        roots = [_root(m.gradient, floor=GRADIENT_FLOOR) for m in moments if m.gradient is not None]
        seen = np.vstack([root @ item.load() for root, item in zip(roots, layers, strict=True)])
        basis, values, _ = np.linalg.svd(
            seen @ _root(moments[0].covariance, floor=0.0), full_matrices=False
        )
        return Group(layers, moments, roots, basis, values)

    @property
    def choice(self) -> Choice:
        """What the group may become, and what that costs."""
        step = self.layers[0].shape[1] + sum(layer.shape[0] for layer in self.layers)
        dense = sum(layer.size for layer in self.layers)
        return Choice(self.moments[0].uses * self.values**2, step, dense)

    def weights(self, rank: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For each layer the product of its factors, and what its bias takes over."""
        ends = np.cumsum([layer.shape[0] for layer in self.layers])[:-1]
        parts = np.split(self.basis[:, :rank], ends)
        weights = [np.asarray(layer.load(), np.float64) for layer in self.layers]
        seen = np.vstack([root @ w for root, w in zip(self.roots, weights, strict=True)])
        right = self.basis[:, :rank].T @ seen
        found = {}
        for layer, w, m, root, part in zip(
            self.layers, weights, self.moments, self.roots, parts, strict=True
        ):
            product = np.linalg.solve(root, part) @ right
            found[layer.module] = product, (w - product) @ m.mean
        return found


def groups(layers: Sequence[Layer], moments: Mapping[str, Moments], shared: bool) -> list[Group]:
    """Layers with the same moments together, or each alone."""
    found: dict[object, list[Layer]] = {}
    for layer in layers:
        key = id(moments[layer.name].second) if shared else layer.name
        found.setdefault(key, []).append(layer)
    return [Group.of(items, [moments[item.name] for item in items]) for items in found.values()]


def compressed(checkpoint: Checkpoint, parts: Sequence[Group], share: float) -> Edited:
    """The network with a share of the weights of these layers, as products."""
    total = sum(part.choice.dense for part in parts)
    ranks = allocate([part.choice for part in parts], round(share / 100 * total))
    edits = {}
    for part, rank in zip(parts, ranks, strict=True):
        for module, (product, shift) in ({} if rank is None else part.weights(rank)).items():
            weight, bias = member(module, "weight"), member(module, "bias")
            edits[weight] = {weight: encode(product, "F32")}
            edits[bias] = {bias: encode(checkpoint.array(bias) + shift, "F32")}
    return Edited(checkpoint, edits, None)


def main() -> None:
    """Calibrate, compress, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--share", type=float, nargs="+", default=[70, 50, 35])
    parser.add_argument("--folder", type=Path, help="where to keep text and moments")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(minilm(), arguments.folder or Path(name))
        bench.joint(50, bench.settings("two-sided"))  # writes the moments where there are none
        found, _ = read_stats(bench.calibration.with_suffix(".safetensors"))
        moments = {name: m for name, m in found.items() if m is not None}
        checkpoint = open_checkpoint(bench.source)
        items = find_layers(checkpoint, Selection(include=[LAYERS]))
        layers = [item for item in items if isinstance(item, Layer)]
        scorer = Scorer(Evaluation(bench.test), checkpoint, checkpoint)
        print_row("right factors", "encoder's weights", "mean cosine")
        print_row(*["---"] * 3)
        for title, shared in (("one a layer", False), ("query, key and value share one", True)):
            parts = groups(layers, moments, shared)
            for share in arguments.share:
                cosines = scorer.compare(compressed(checkpoint, parts, share)).cosines
                assert cosines is not None
                print_row(title, f"{share:g} %", f"{cosines.mean():.4f}")


if __name__ == "__main__":
    main()
