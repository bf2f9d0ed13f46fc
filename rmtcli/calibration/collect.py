"""Moments of layers, summed batch by batch through the hooks of a torch module."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rmtcli.calibration.moments import FOLD, Moments
from rmtcli.calibration.reliability import kept_apart
from rmtcli.calibration.spread import joined
from rmtcli.calibration.starts import softmax_root
from rmtcli.calibration.sums import Sums
from rmtcli.computing.steps import tracked
from rmtcli.errors import EvaluationError

#: Makes the values that a backward pass starts from, of the shape of the outputs.
Start = Callable[[Tensor, torch.Generator], Tensor]

#: Modules whose outputs are summed up, and not their inputs, by the number of a kernel's sides.
CONVOLUTIONS: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}

#: Seed of the normal draws from which backward passes start: a calibration can be repeated.
_SEED = 0


@dataclass
class _Watch:
    """Everything that the hooks record."""

    #: The tensors read in this batch, by id and version, with the layers that read them. Holding
    #: the tensors keeps Python from giving their ids to others.
    read: dict[tuple[int, int], tuple[Tensor, list[str]]] = field(default_factory=dict)
    #: Gives masks of the batch's positions that count.
    masks: Callable[[], Sequence[Tensor]] = tuple
    inputs: dict[tuple[str, ...], Sums] = field(default_factory=dict)
    outputs: dict[str, Sums] = field(default_factory=dict)
    gradients: dict[str, Sums] = field(default_factory=dict)
    #: Layers of which a fold of the batches is kept apart, and the number of batches so far.
    apart: Set[str] = frozenset()
    batches: int = 0

    def close(self) -> None:
        """End a batch."""
        self.batches += 1
        mine = self.batches % FOLD == 0
        for group, sums in self.inputs.items():
            sums.close(apart=mine and not self.apart.isdisjoint(group))
        for every in (self.outputs, self.gradients):
            for name, sums in every.items():
                sums.close(apart=mine and name in self.apart)

    def note(self, name: str, source: Tensor) -> None:
        """Note that a layer reads a tensor."""
        self.read.setdefault((id(source), source._version), (source, []))[1].append(name)

    def add_inputs(self) -> None:
        """Add the tensors of a batch to the sums, each once however many layers read it.

        Raises:
            EvaluationError: the network has changed one of them since.
        """
        for (_, version), (source, readers) in self.read.items():
            if source._version != version:
                raise EvaluationError(
                    f"the network changes the input of '{readers[0]}' in place after the layer has "
                    "read it, so it cannot be calibrated: let the network's code make a new tensor"
                )
            self.inputs.setdefault(tuple(readers), Sums()).add(rows_of(source, self.masks()))
        self.read.clear()

    def add_outputs(self, name: str, values: Tensor, bias: Tensor | None) -> None:
        """Add the outputs of one layer, without its bias, to its sums."""
        self.outputs.setdefault(name, Sums()).add(rows_of(values, self.masks()), bias)

    def add_gradient(self, name: str, gradient: Tensor) -> None:
        """Add the output gradients of one layer to its sum."""
        self.gradients.setdefault(name, Sums(centred=False)).add(rows_of(gradient, self.masks()))

    def moments(self, name: str, samples: int, draws: int) -> Moments | None:
        """Return one layer's moments, from every group that it is in.

        Args:
            name: the layer's module name.
            samples: number of samples that went through the network.
            draws: number of backward passes per batch.

        Returns:
            The moments, or None for a layer that no input reached.
        """
        own = [(group.count(name), sums) for group, sums in self.inputs.items() if name in group]
        if name in self.outputs:
            own.append((1, self.outputs[name]))
        rows = sum(times * sums.rows for times, sums in own)
        if not rows:
            return None
        shares = [times * sums.rows / rows for times, sums in own]
        if len(own) == 1:  # layers that read the same tensors hold the same arrays
            mean, second = own[0][1].averages
        else:
            averages = [sums.averages for _, sums in own]
            mean = np.asarray(sum(s * a for s, (a, _) in zip(shares, averages, strict=True)))
            second = np.asarray(sum(s * b for s, (_, b) in zip(shares, averages, strict=True)))
        gradient, worth, of_outputs = None, None, name in self.outputs
        fold = self._fold(name, own, draws)
        if name in self.gradients:
            sums = self.gradients.pop(name)
            gradient, worth = sums.outer / (rows * draws), sums.spread.independent
        seen = joined(shares, [sums.spread.independent for _, sums in own])
        return Moments(rows, samples, mean, second, gradient, of_outputs, seen, worth, fold)

    def _fold(self, name: str, own: Sequence[tuple[int, Sums]], draws: int) -> Moments | None:
        """The moments of one layer over the fold that is kept apart, if it is kept of this layer.

        None for a layer that is in several groups.
        """
        kept = own[0][1].fold if len(own) == 1 and name in self.apart else None
        if kept is None:
            return None
        rows, total, outer = kept
        rows, gradient = rows * own[0][0], None
        if name in self.gradients:
            known = self.gradients[name].fold
            if known is None:
                return None
            gradient = known[2] / (rows * draws)
        mean, second = total / kept[0], outer / kept[0]
        return Moments(rows, 0, mean, second, gradient, name in self.outputs)


def rows_of(values: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """Return the rows that count, shape (rows, width).

    Args:
        values: shape (…, width).
        masks: shape (samples, positions), true for positions with tokens and false for padding; no
            two have one shape. Where the shapes of values and masks do not fit, all rows count.
    """
    for mask in masks:
        if values.shape[:-1] == mask.shape:
            return values[mask]
        if values.ndim == 2 and len(values) == mask.numel():
            return values[mask.flatten()]
    return values.flatten(0, -2)


def collect(
    model: nn.Module,
    inputs: NDArray[Any],
    layers: Collection[str],
    run: Callable[[nn.Module, Tensor], Tensor],
    *,
    batch: int = 256,
    start: Start | None = None,
    draws: int = 1,
    masks: Callable[[], Sequence[Tensor]] = tuple,
) -> dict[str, Moments]:
    """Collect the moments of linear layers, convolutions and tables, and of their output gradients.

    The network runs forward, and backward as often as asked for. The backward pass starts from
    random values whose covariance is the Fisher matrix of the outputs: :func:`softmax_root`,
    :func:`label_root` or :func:`identity_root`. Labels drawn from the model's own output (Martens
    and Grosse, 2015, section 5) have the same expectation, and more variance where the network is
    sure. No labels are needed.

    Memory: the activations of one batch, and 4 (in² + out²) float64 values per linear layer, 8 out²
    per convolution or table, of which a quarter stays; layers that read the same tensor (query, key
    and value) store its moments once. Of some linear layers and convolutions, the
    moments of every fourth batch are kept a second time, by themselves, in 64 MB at most.

    Args:
        model: the network, in evaluation mode, on its device.
        inputs: shape (samples, …).
        layers: module names of the layers to watch: ``nn.Linear``, and convolutions without groups
            and ``nn.Embedding``, whose moments are those of their outputs.
        run: function that gives a network's outputs, shape (rows, width).
        batch: number of samples that run at a time.
        start: what a backward pass starts from, given the outputs; :func:`softmax_root` by
            default.
        draws: number of backward passes per batch; 0 to collect no output gradients.
        masks: function that gives, after a batch has run, masks of its positions that count; none
            for all.

    Returns:
        Moments by module name; a layer that no input reached is missing. A linear layer that is
        tied to one of the tables has too many outputs for a moment of their gradients: in its
        place is the mean square norm, of shape (1, 1).

    Raises:
        EvaluationError: the network changes a layer's input in place after it was read.
    """
    start, heads = start or softmax_root, _tied_heads(model, layers)
    watch = _Watch(masks=masks, apart=kept_apart(_widths(model, set(layers) - heads)))
    hooks = [
        model.get_submodule(name).register_forward_hook(
            _hook(name, watch, draws > 0, norm=name in heads)
        )
        for name in layers
    ]
    generator = torch.Generator().manual_seed(_SEED)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)  # only gradients of outputs are needed
    try:
        for first in tracked(range(0, len(inputs), batch), "calibrating"):
            chunk = torch.from_numpy(np.array(inputs[first : first + batch]))
            with torch.set_grad_enabled(draws > 0):
                outputs = run(model, chunk)
            watch.add_inputs()
            for left in reversed(range(draws if outputs.requires_grad else 0)):
                values = start(outputs.detach(), generator)
                torch.autograd.backward(outputs, values, retain_graph=left > 0)
            watch.close()
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in trained:
            parameter.requires_grad_(True)
    collected = {name: watch.moments(name, len(inputs), draws) for name in layers}
    return {name: moments for name, moments in collected.items() if moments is not None}


def _widths(model: nn.Module, layers: Collection[str]) -> dict[str, tuple[int, int]]:
    """Widths of the two moments of each layer that is no table."""
    widths = {}
    for name in layers:
        module = model.get_submodule(name)
        if isinstance(module, nn.Embedding):
            continue
        out, inputs = module.get_parameter("weight").flatten(1).shape
        widths[name] = (out, out if isinstance(module, tuple(CONVOLUTIONS)) else inputs)
    return widths


def _tied_heads(model: nn.Module, layers: Collection[str]) -> set[str]:
    """Those of the layers that are linear and have the weight of a table among the layers."""
    modules = {name: model.get_submodule(name) for name in layers}
    tables = [m._parameters["weight"] for m in modules.values() if isinstance(m, nn.Embedding)]
    return {
        name
        for name, module in modules.items()
        if isinstance(module, nn.Linear)
        and any(w is not None and torch.equal(w, module.weight) for w in tables)
    }


def _hook(name: str, watch: _Watch, gradients: bool, *, norm: bool) -> Any:
    """Return a forward hook that records a layer's rows and, later, its output's gradient.

    With ``norm``, no more than the gradient's norm is recorded.
    """

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        sides = next((n for kind, n in CONVOLUTIONS.items() if isinstance(module, kind)), 0)

        def received(gradient: Tensor) -> None:
            rows = gradient.norm(dim=-1, keepdim=True) if norm else _by_position(gradient, sides)
            watch.add_gradient(name, rows)

        if sides:
            watch.add_outputs(name, _by_position(output, sides), module._parameters["bias"])
        elif isinstance(module, nn.Embedding):
            watch.add_outputs(name, output, None)
        else:
            watch.note(name, args[0])
        if gradients:
            # Parameters require no gradient, so that the first layer's output starts the graph. It
            # is copied because the network may change it in place, which no graph can start with.
            if not output.requires_grad:
                output = output.detach().requires_grad_(True).clone()
            output.register_hook(received)  # type: ignore[no-untyped-call]
        return output

    return hook


def _by_position(values: Tensor, sides: int) -> Tensor:
    """Return a convolution's outputs, (samples, channels, …) or one sample's, as rows of channels.

    Args:
        values: the outputs, or their gradients.
        sides: sides of the kernel; 0 for a linear layer or a table, whose outputs are rows.

    Returns:
        Shape (samples, positions, channels).
    """
    if not sides:
        return values
    values = values if values.ndim > sides + 1 else values.unsqueeze(0)
    return values.flatten(2).movedim(1, 2)
