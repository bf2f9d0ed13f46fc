"""Prune a network while it trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer

from rmtcli.edges import EDGES, EdgeFit
from rmtcli.errors import TrainingError, UsageError
from rmtcli.keep import KEEP_RULES, Untouched
from rmtcli.layers import Selection
from rmtcli.spectra import Spectrum
from rmtcli.training.absorb import absorb, followers, narrow_empty
from rmtcli.training.action import Action
from rmtcli.training.find import check_classes, check_optimizer, classes_of, layers_in
from rmtcli.training.last_fit import LastFit
from rmtcli.training.layers import Decomposition, TrainedLayer
from rmtcli.training.log import rows
from rmtcli.training.schedules import SCHEDULES
from rmtcli.training.step import Change, Step, check_finite
from rmtcli.training.watch import confidence_on


class RMTPruner:
    """Fits, truncates and splits the linear layers of a network during its training.

    Call :meth:`step` before each epoch, or after each step of the optimizer; ``start``, ``every``
    and the schedule count these calls. Between two calls, the network and the optimizer are
    ordinary ones: gradient scaling, schedulers and ``torch.compile`` keep working. Momentum and
    moments are carried over to the factors. The method is that of Shmalo, Jenkins and Krupchytskyi
    (2023, arXiv 2303.08986).

    Examples:
        >>> pruner = RMTPruner(model, optimizer, schedule="constant:of=0.45")  # doctest: +SKIP
        >>> for epoch in range(10):  # doctest: +SKIP
        ...     print(pruner.step())
        ...     train_one_epoch(model, optimizer)

    Args:
        model: the network; its layers are replaced in place.
        optimizer: any torch optimizer over its parameters.
        edge: edge estimator with options.
        keep: keep rule with options.
        schedule: share of the rule's dropped singular values that is still kept, over time.
        action: ``split`` replaces a layer by two linear maps if they are smaller, and otherwise
            truncates it in place; ``truncate`` never splits; ``halve`` halves the dropped singular
            values; ``absorb`` multiplies a factor into the next layer, which makes the hidden layer
            narrower (Paul and Nelson, 2023).
        start: the first call that acts; the first call has time 0.
        every: number of calls from one that acts to the next.
        stop: the first call that no longer acts, or None.
        hysteresis: a layer is left alone unless its rank falls by at least this share.
        least: smallest rank; by default the number of outputs of the last linear layer if it is
            below ``selection.min_side``, else 1.
        l1: weight of Σ|w| over all weights of two or more dimensions, for :meth:`penalize`.
        l2: weight of Σw² over these weights, for :meth:`penalize`.
        selection: which layers may be pruned.
        watch: inputs and class numbers; on them, the cross-entropy and what follows from it are
            logged before and after each call that acts.

    Attributes:
        layers: the layers that may be pruned.
        left_alone: why other linear layers are not pruned, by name.
        log: one row per layer and call, for :func:`~rmtcli.training.write_log`.

    Raises:
        UsageError: an option is wrong, there is no layer to prune, the optimizer does not hold a
            layer's weight, or a layer's class has a forward that a split would lose.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        edge: str = "select",
        keep: str = "auto",
        schedule: str = "constant:of=0",
        action: str = "split",
        start: int = 1,
        every: int = 1,
        stop: int | None = None,
        hysteresis: float = 0.0,
        least: int | None = None,
        l1: float = 0.0,
        l2: float = 0.0,
        selection: Selection | None = None,
        watch: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            raise UsageError(
                f"{type(model).__name__} fixes its parameters: make the pruner with model.module, "
                "and wrap the model again after each step that changes a layer"
            )
        self.model = cast(nn.Module, getattr(model, "_orig_mod", model))
        self.optimizer = optimizer
        self.edge, self.keep = EDGES.parse(edge), KEEP_RULES.parse(keep)
        self.schedule = SCHEDULES.parse(schedule)
        self.action = Action.named(action)
        _check_numbers(start=start, every=every - 1, stop=stop or 0, l1=l1, l2=l2, least=least or 0)
        if not 0 <= hysteresis < 1:
            raise UsageError(f"hysteresis must be in [0, 1), not {hysteresis}")
        self.start, self.every, self.stop = start, every, stop
        self.hysteresis, self.l1, self.l2, self._watch = hysteresis, l1, l2, watch
        selection = selection or Selection()
        self.layers, self.left_alone = layers_in(self.model, selection)
        if not self.layers:
            why = "; ".join(f"{name}: {reason}" for name, reason in self.left_alone.items())
            raise UsageError(f"no linear layer to prune{': ' if why else ''}{why}")
        self.least = classes_of(self.model, selection) if least is None else least
        check_optimizer(optimizer, self.layers)
        if self.action is Action.SPLIT:
            check_classes(self.layers)
        self._next: dict[str, nn.Linear] = {}
        if self.action is Action.ABSORB:
            self._next = followers(self.model, self.layers)
            last = [layer.name for layer in self.layers if layer.name not in self._next]
            self.left_alone |= dict.fromkeys(last, "no layer follows that could absorb a factor")
            self.layers = [layer for layer in self.layers if layer.name in self._next]
        self.time = 0
        self.dense = self.parameters
        self.log: list[dict[str, Any]] = []
        self._fits = {layer.name: LastFit() for layer in self.layers}

    @property
    def parameters(self) -> int:
        """Number of parameters of the whole network now."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of every layer that may be pruned."""
        return {layer.name: layer.rank for layer in self.layers}

    def step(self, **metrics: float) -> Step:
        """Count a call, and prune if it is time.

        Args:
            metrics: measurements to log with the ranks, such as ``loss=…``.

        Returns:
            The result of the call; ``str`` gives one line.

        Raises:
            TrainingError: a metric or a weight is not finite, a layer is all zeros, or a layer is
                no longer in the network.
        """
        check_finite(metrics, self.time)
        late = self.stop is not None and self.time >= self.stop
        due = self.time >= self.start and (self.time - self.start) % self.every == 0 and not late
        values = {name: float(value) for name, value in metrics.items()}
        if due and self._watch is not None:
            before = confidence_on(self.model, self._watch)
            values |= {f"{name}_before": value for name, value in before.items()}
        changes = tuple(self._prune(layer) for layer in self.layers) if due else ()
        if due and self._watch is not None:
            values |= confidence_on(self.model, self._watch)
        step = Step(self.time, self.parameters, self.dense, changes, self.ranks, values)
        self.log += rows([step])
        self.time += 1
        return step

    @torch.no_grad()
    def penalize(self) -> None:
        """Add the gradient of l1 · Σ|w| + l2 · Σw² to the gradients (Berlyand et al., 2023).

        Call it between the backward pass and the optimizer's step; with a gradient scaler, after
        ``scaler.unscale_(optimizer)``.
        """
        if not (self.l1 or self.l2):
            return  # trainers call it at each step
        scales = {id(weight): layer.scale for layer in self.layers for weight in layer.weights}
        for weight in self.model.parameters():
            if weight.ndim > 1 and weight.requires_grad and weight.grad is not None:
                scale = scales.get(id(weight), 1.0)
                weight.grad.add_(weight.sign(), alpha=scale * self.l1)
                weight.grad.add_(weight, alpha=2 * scale * self.l2)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a later run needs to resume: plain numbers and text."""
        return {
            "time": self.time,
            "dense": self.dense,
            "layers": {
                layer.name: {
                    "rank": layer.rank if layer.split else None,
                    "scale": layer.scale,
                    "shape": list(layer.shape),
                    **self._fits[layer.name].state(),
                }
                for layer in self.layers
            },
            "log": self.log,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of an earlier run.

        Layers get the shapes that they had, so that afterwards the state dict of the network can be
        loaded, and then that of the optimizer.

        Raises:
            UsageError: the state belongs to another network.
        """
        if "layers" not in state or state["layers"].keys() != self.ranks.keys():
            raise UsageError("the state belongs to a network with other layers")
        self.time, self.dense, self.log = state["time"], state["dense"], list(state["log"])
        for layer in self.layers:
            saved = state["layers"][layer.name]
            if layer.name in self._next:
                width = saved["shape"][0]
                narrow_empty(layer, self._next[layer.name], width, self.optimizer)
            if saved["rank"] is not None and not layer.split:
                layer.split_empty(saved["rank"], self.optimizer)
            if layer.split:
                layer.scale_gradients(saved["scale"])
            if list(layer.shape) != saved["shape"]:
                raise UsageError(
                    f"the state belongs to a network whose {layer.name} has another shape"
                )
            self._fits[layer.name] = LastFit.of(saved)

    def _prune(self, layer: TrainedLayer) -> Change:
        """Fit a layer, and act on it if its rank falls far enough."""
        if not layer.in_place:
            raise TrainingError(
                f"{layer.name} is no longer in the network: make a new pruner after changing it"
            )
        decomposed, before = layer.decompose(), layer.rank
        spectrum = decomposed.spectrum
        fit = self._fits[layer.name].refit(spectrum, lambda: layer.values, self.edge)
        rank = self._rank(spectrum, fit, before)
        action, reason = "kept", fit.verdict.value
        kept = spectrum.p
        if isinstance(rank, Untouched):
            reason = rank.value
        elif rank < before and rank <= (1 - self.hysteresis) * before:
            action, kept = self._act(layer, decomposed, rank), rank
        out, inputs = layer.shape
        return Change(
            layer=layer.name,
            out=out,
            inputs=inputs,
            before=before,
            rank=layer.rank if layer.split or action == "absorbed" else kept,
            spikes=spectrum.count_above(fit.edge),
            edge=fit.edge,
            sigma=fit.law.sigma,
            ks_distance=fit.ks_distance,
            action=action,
            reason=reason,
            relative_error=spectrum.relative_error(kept) / (2 if action == "halved" else 1),
        )

    def _rank(self, spectrum: Spectrum, fit: EdgeFit, before: int) -> int | Untouched:
        """Return the rule's rank plus the schedule's share, or why the layer is left alone."""
        chosen = self.keep.rank(spectrum, fit)
        if isinstance(chosen, Untouched):
            return chosen
        # A product such as 0.07 · 100 is a rounding error above the whole number.
        share = self.schedule.share(self.time)
        extra = math.ceil(share * (spectrum.p - chosen) - 1e-9)
        return min(max(chosen + extra, self.least, 1), before)

    def _act(self, layer: TrainedLayer, decomposed: Decomposition, rank: int) -> str:
        """Reduce a layer to a rank, and return the name of the action for the log."""
        factors = decomposed.factors(rank)
        if self.action is Action.ABSORB:
            absorb(layer, self._next[layer.name], factors, self.optimizer)
            return "absorbed"
        smaller = rank * sum(layer.shape) < layer.shape[0] * layer.shape[1]
        if layer.split or (self.action is Action.SPLIT and smaller):
            layer.replace(factors, self.optimizer)
            self._fits[layer.name].cut = rank
            return "split"
        if self.action is Action.HALVE:
            layer.overwrite((layer.values + factors.product) / 2)
            return "halved"
        layer.overwrite(factors.product)
        self._fits[layer.name].cut = rank
        return "truncated"


def _check_numbers(**values: float) -> None:
    """Reject numbers below 0; ``every`` is given as one less than its value.

    Raises:
        UsageError: a number is out of range.
    """
    for name, value in values.items():
        if not 0 <= value < math.inf:
            least = 1 if name == "every" else 0
            raise UsageError(f"{name} must be at least {least}, not {value + least}")
