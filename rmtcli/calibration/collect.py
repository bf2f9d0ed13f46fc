"""Moments of layers, summed batch by batch through the hooks of a torch module."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rmtcli.calibration.moments import Moments
from rmtcli.calibration.reliability import kept_apart
from rmtcli.calibration.starts import run_back, softmax_root
from rmtcli.calibration.watch import CONVOLUTIONS, Centres, Watch
from rmtcli.computing.steps import tracked

#: Makes the values that a backward pass starts from, of the shape of the outputs.
Start = Callable[[Tensor, torch.Generator], Tensor]

#: Seed of the normal draws from which backward passes start: a calibration can be repeated.
SEED = 0


def collect(
    model: nn.Module,
    inputs: NDArray[Any],
    layers: Collection[str],
    run: Callable[[nn.Module, Tensor], Tensor],
    *,
    batch: int = 256,
    start: Start | None = None,
    draws: int = 1,
    watch: Watch | None = None,
) -> dict[str, Moments]:
    """Collect the moments of linear layers, convolutions and tables, and of their output gradients.

    The network runs forward, and backward as often as asked for. The backward pass starts from
    random values whose covariance is the Fisher matrix of the outputs: :func:`softmax_root`,
    :func:`label_root` or :func:`identity_root`. Labels drawn from the model's own output (Martens
    and Grosse, 2015, section 5) have the same expectation, and more variance where the network is
    sure. No labels are needed.

    Memory: the activations of one batch, and in² + out² values per linear layer, 2 out² per
    convolution or table, twice as many if batches differ in their number of rows; layers that read
    the same tensor (query, key and value) store its moments once. Of some linear layers and
    convolutions, the moments of every fourth batch are kept a second time, in 64 MB at most.

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
        watch: says which positions count, and in which type products are summed up; all, and
            float64, by default.

    Returns:
        Moments by module name; a layer that no input reached is missing. A linear layer that is
        tied to one of the tables has too many outputs for a moment of their gradients: in its
        place is the mean square norm, of shape (1, 1).

    Raises:
        EvaluationError: the network changes a layer's input in place after it was read.
    """
    watch = watch_for(model, layers, replace(watch or Watch(), gradients=draws > 0))
    firsts = tracked(range(0, len(inputs), batch), "calibrating")
    batches = (inputs[first : first + batch] for first in firsts)
    add_batches(watch, model, layers, batches, run, start=start or softmax_root, draws=draws)
    return dict(watch.moments(layers, len(inputs), draws))


def add_batches(
    watch: Watch,
    model: nn.Module,
    layers: Collection[str],
    batches: Iterable[NDArray[Any]],
    run: Callable[[nn.Module, Tensor], Tensor],
    *,
    start: Start,
    draws: int,
    seed: int = SEED,
) -> None:
    """Run a network over batches, and add what its layers read and write to the sums of a watch.

    Raises:
        EvaluationError: the network changes a layer's input in place after it was read.
    """
    generator = torch.Generator().manual_seed(seed)
    with watch.attached(model, layers), without_gradients(model):
        for batch in batches:
            with torch.set_grad_enabled(draws > 0):
                outputs = run(model, torch.from_numpy(np.array(batch)))
            watch.add_inputs()
            for left in reversed(range(draws if outputs.requires_grad else 0)):
                values = start(outputs.detach(), generator)
                run_back([outputs], [values], retain_graph=left > 0)
            watch.close()


def find_centres(
    watch: Watch,
    model: nn.Module,
    layers: Collection[str],
    batch: NDArray[Any],
    run: Callable[[nn.Module, Tensor], Tensor],
) -> Centres:
    """The points from which the spreads of all samples count: the means of the first batch.

    With them, sums over parts of the samples can be merged.
    """
    alone = replace(watch, gradients=False)
    with alone.attached(model, layers), torch.no_grad():
        run(model, torch.from_numpy(np.array(batch)))
        alone.add_inputs()
        alone.close()
    return alone.means


def watch_for(model: nn.Module, layers: Collection[str], watch: Watch) -> Watch:
    """Return what watches some layers: which are tied to tables, and which are kept apart."""
    heads = _tied_heads(model, layers)
    return replace(watch, heads=heads, apart=kept_apart(_widths(model, set(layers) - heads)))


@contextmanager
def without_gradients(model: nn.Module) -> Iterator[None]:
    """Let no parameter require a gradient while the block runs: only outputs need some."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


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
        and any(
            w is module.weight or (w is not None and torch.equal(w, module.weight)) for w in tables
        )
    }


def _same(a: Tensor | None, b: Tensor) -> bool:
    """Whether two weights are one, or equal."""
    return a is b or (a is not None and torch.equal(a, b))
