"""The parts of an adapter: factors, tensors that it holds whole, and its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rmtcli.adapters import WEIGHTS, AdaptedLayer, Kind
from rmtcli.checkpoint import Checkpoint, encode, open_checkpoint
from rmtcli.checkpoint.in_file import InFile
from rmtcli.checkpoint.names import module_of
from rmtcli.checkpoint.spill import Spill, Stored
from rmtcli.errors import LayerError
from rmtcli.keep import Untouched
from rmtcli.layers import Layer, matches
from rmtcli.layouts import Factored
from rmtcli.options import option
from rmtcli.pipeline.adapter_ranks import AdapterGoal, losses_of
from rmtcli.pipeline.changes import Changed, Pair
from rmtcli.pipeline.stages import describe
from rmtcli.planning import Fitted, LayerPlan, Plain, RankChooser
from rmtcli.report.base import Source
from rmtcli.report.extracted import Beside, Extracted, percent
from rmtcli.spectra import Factors, Spectrum

#: Types in which factors are stored as the tuned weight is; others are stored in float32.
_HALF = ("BF16", "F16")
#: The output head of transformers' classes that generate text.
_HEAD = "lm_head.weight"
#: What PEFT calls the task of a class of transformers, by the end of its name.
_TASKS = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
}

#: A share of the change that a user would miss.
MUCH = 0.01


class Maker:
    """Makes the low-rank changes of all layers, and counts what they hold.

    Args:
        pair: the network before and after training.
        choose: gives each layer its rank, or the reason why it has none.

    Attributes:
        layers: the low-rank changes that were made.
        saved: tensors that belong to them and are held whole.
    """

    def __init__(self, pair: Pair, choose: RankChooser) -> None:
        self.layers: list[AdaptedLayer] = []
        self.saved: dict[str, Stored] = {}
        self._pair, self._choose, self._spill = pair, choose, Spill()
        self._losses: dict[str, float] = {}

    def plan(self, item: Fitted) -> LayerPlan:
        """The rank of a layer's change and its factors, or why it has none; in any thread."""
        chosen = self._choose(item)
        rank = 0 if isinstance(chosen, Untouched) else chosen
        untouched = chosen if isinstance(chosen, Untouched) else None if rank else Untouched.NO_RANK
        assert item.approximation is not None
        factors = item.approximation.factors(rank) if rank else None
        error, loss = self._measured(item, factors)
        return LayerPlan(
            item.layer,
            Factored(),
            item.fit,
            replace(item.spectrum, form=None),
            item.spikes,
            rank,
            untouched,
            error,
            loss,
            factors,
        )

    def _measured(self, item: Fitted, factors: Factors | None) -> tuple[float, float | None]:
        """What factors miss of a change: the relative error, and the share of its losses."""
        rank = 0 if factors is None else factors.right.shape[0]
        if isinstance(item.approximation, Plain):
            return item.spectrum.relative_error(rank) if rank else 1.0, None
        losses = losses_of(item)
        self._losses[item.layer.name] = total = float(losses.sum())
        loss = float(losses[rank:].sum()) / total if total else 0.0
        return 1.0 if factors is None else _error(item.layer, factors), loss

    def keep(self, plan: LayerPlan) -> LayerPlan:
        """Store the factors of a plan, and return the plan without them.

        Raises:
            LayerError: a value is beyond the range of the factors' type.
        """
        if plan.factors is None:
            return plan
        layer, left, right = plan.layer, plan.factors.left, plan.factors.right
        if not layer.view.table:
            left, right = layer.view.factors(left, right)
        dtype = self._type_of(layer)
        try:
            first, second = (self._spill.keep(encode(x, dtype)) for x in (left, right))
        except OverflowError as error:
            raise LayerError(f"{layer.name}: the factors of its change: {error}") from None
        # With alpha equal to the rank, the scale is 1.
        made = AdaptedLayer(layer.module, first, second, float(plan.rank), kind=_kind(layer))
        self.layers.append(made)
        return replace(plan, factors=None)

    def _type_of(self, layer: Layer) -> str:
        """The type of a layer's factors."""
        dtype = self._pair.tuned.infos[layer.tensor].dtype
        return dtype if dtype in _HALF else "F32"

    def extracted(
        self,
        plans: Sequence[LayerPlan],
        others: Sequence[Changed],
        saved: Mapping[str, Stored],
        unchanged: int,
    ) -> Extracted:
        """What the adapter holds of the change, and what it leaves out."""
        squares = {plan.layer.name: square_of(plan.spectrum) for plan in plans}
        beside = sum(other.square for other in others)
        total = sum(squares.values()) + beside or 1.0
        kept = sum(squares[p.layer.name] * (1 - p.relative_error**2) for p in plans)
        kept += sum(other.square for other in others if other.name in saved)
        noise = sum(min(p.layer.size * p.fit.law.sigma**2, squares[p.layer.name]) for p in plans)
        losses, by_output = self._losses, None
        if whole := sum(losses.values()):
            lost = (losses.get(p.layer.name, 0.0) * (p.predicted_loss or 0.0) for p in plans)
            by_output = 1 - sum(lost) / whole
        tensors = tuple(
            Beside(x.name, x.shape, x.square / total, x.name in saved, x.resized) for x in others
        )
        only = tuple(self._pair.only)
        return Extracted("", 0, kept / total, noise / total, by_output, unchanged, tensors, only)


def square_of(spectrum: Spectrum) -> float:
    """The squared norm of a matrix."""
    return spectrum.n * float(spectrum.eigenvalues.sum())


def _error(layer: Layer, factors: Factors) -> float:
    """‖ΔW − LR‖/‖ΔW‖ of factors that are not the truncated singular value decomposition."""
    change = layer.load().astype(np.float64)
    return float(np.linalg.norm(change - factors.product) / np.linalg.norm(change))


def _kind(layer: Layer) -> Kind:
    """What an adapter calls a layer's module."""
    if layer.view.table:
        return Kind.EMBEDDING
    return Kind.CONVOLUTION if layer.view.kernel else Kind.LINEAR


def saved_whole(pair: Pair, others: Sequence[Changed], goal: AdapterGoal) -> dict[str, Stored]:
    """The tensors that an adapter holds whole, under each of their names in the base.

    They are what the user names and, of a tuned network, biases, normalisations and other tensors
    without a second side, and tables that have another number of rows than before.
    """
    saved: dict[str, Stored] = {}
    head = tied_head(pair.base)
    for other in others:
        named = any(matches(other.name, pattern) for pattern in goal.whole)
        follows = not goal.repairs and (len(other.shape) < 2 or other.resized)
        if not (named or follows):
            continue
        if not module_of(other.name):  # the network's own: no module can be replaced
            continue
        first = pair.base.aliases.get(other.name, other.name)
        names = (name for name, source in pair.base.aliases.items() if source == first)
        for name in dict.fromkeys((other.name, *names)):
            if name in pair.tuned.infos:
                saved[name] = InFile(pair.tuned, name)
        if head is not None and is_token_table(pair.base, other.name):
            saved[head] = InFile(pair.tuned, other.name)
    return saved


def tied_head(checkpoint: Checkpoint) -> str | None:
    """The output head that transformers ties to the table of tokens, where no file holds it."""
    causal = _task(checkpoint) == "CAUSAL_LM" and _HEAD not in checkpoint.infos
    return _HEAD if causal else None


def is_token_table(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a tensor of a directory has one row per token."""
    shape = checkpoint.infos[name].shape
    return len(shape) == 2 and shape[0] in checkpoint.about.vocabularies


def on_resized(others: Sequence[Changed]) -> tuple[str, ...]:
    """How to load an adapter whose tables have other numbers of rows than the base's."""
    rows = sorted({other.shape[0] for other in others if other.resized})
    if not rows:
        return ()
    return (
        "the tuned network has tables with another number of rows, which the adapter holds whole: "
        f"call base.resize_token_embeddings({rows[-1]}) before you load it",
    )


def on_left_out(extracted: Extracted) -> tuple[str, ...]:
    """How to keep what an adapter leaves out, where that is much of the change."""
    share = sum(item.share for item in extracted.beside if not item.saved)
    if share < MUCH:
        return ()
    return (
        f"{percent(share)} of the change is in tensors that are left out: include them with "
        f"{option('whole')}, or tables of tokens with {option('embeddings')}",
    )


def config_of(
    pair: Pair, layers: Sequence[AdaptedLayer], saved: Mapping[str, Stored]
) -> dict[str, Any]:
    """The entries of PEFT's configuration that the layers do not tell."""
    modules = {layer.module for layer in layers}
    transposed = {module.rpartition(".")[2] for module in modules} & pair.base.about.transposed
    biases = any(name.endswith("bias") and module_of(name) in modules for name in saved)
    config: dict[str, Any] = {
        "fan_in_fan_out": bool(transposed),
        "bias": "all" if biases else "none",
    }
    config["task_type"] = _task(pair.base)
    return config


def _task(checkpoint: Checkpoint) -> str | None:
    """What PEFT calls the task of a directory's network, if it generates text."""
    classes = getattr(checkpoint, "config", {}).get("architectures")
    name = str(classes[0]) if isinstance(classes, list) and classes else ""
    return next((task for end, task in _TASKS.items() if name.endswith(end)), None)


def described_adapter(target: Path) -> Source:
    """A written adapter, for the report."""
    file = target / WEIGHTS[0] if target.is_dir() else target
    return replace(describe(open_checkpoint(file)), path=str(target))
