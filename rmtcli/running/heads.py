"""Find attention heads whose units can be fewer, by trying what that does to a network.

Nothing is taken from names or types of architectures. An entry of the configuration is the number
of a head's units if halving it halves one side of some linear layers and changes nothing else. The
layers belong together if the network's outputs stay when the queries of each head are multiplied by
a matrix and the keys by its inverse transposed, and the values by another whose inverse undoes it
before the next layer. Last, a network with half of the units, made from the configuration, must do
what the dense one does without the other half. Rotary embeddings fail the first of these tests, and
products that are scaled by the number of units the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.names import member, module_of
from rmtcli.evaluation.pretrained import Pretrained
from rmtcli.layers import Block, Layer
from rmtcli.running.blocks import SAMPLES, unshared
from rmtcli.running.calibrate import CalibrationInputs
from rmtcli.running.entries import shapes_of
from rmtcli.running.observe import removed

#: How far the matrices of the test are from 1.
_STRENGTH = 0.3
#: Differences up to this share of what one change alone makes are rounding. Large products of
#: queries and keys amplify it: in a T5 of six blocks whose queries are twelve times as large as
#: fresh ones, it is a share of 0.003; layers that do not belong together differ by 1.
_ROUNDING = 0.03


def find_heads(
    model: Pretrained, checkpoint: Checkpoint, layers: Sequence[Layer], source: CalibrationInputs
) -> dict[str, list[Block]]:
    """The pairs of queries and keys, and of values and what reads them, of attention heads.

    Args:
        model: a network of a directory, in evaluation mode.
        checkpoint: its weights.
        layers: the layers that may be changed.
        source: what the network runs on.

    Returns:
        Pairs by the entry of the configuration that is the number of units of each of their heads.
    """
    network, groups = cast(Any, model.network), dict[str, list[Block]]()
    free = {
        module.removeprefix("network."): layer
        for module, layer in unshared(model, checkpoint, layers).items()
    }
    sides = {side for layer in free.values() for side in layer.shape}
    dense, trial = shapes_of(type(network), network.config), None
    for entry, units in network.config.to_dict().items():
        if type(units) is not int or units < 2 or not any(side % units == 0 for side in sides):
            continue
        halved = _halved(network, dense, entry, units, free)
        if halved is None:
            continue
        trial = trial or _Trial.start(model, source)
        pairs = trial.pairs(halved, units)
        if pairs and trial.is_width(entry, units, halved):
            names = {module: layer.name for module, layer in free.items()}
            groups[entry] = [_named(block, names) for block in pairs]
    return groups


def _named(block: Block, names: Mapping[str, str]) -> Block:
    writers, readers = (tuple(names[m] for m in x) for x in (block.writers, block.readers))
    return replace(block, writers=writers, readers=readers)


def _halved(
    network: nn.Module,
    dense: Mapping[str, tuple[int, ...]],
    entry: str,
    units: int,
    free: Mapping[str, Layer],
) -> dict[str, int] | None:
    """The layers of which one side is halved with an entry, with that side: 0 for rows, or 1.

    None if the entry changes other tensors too, or no layer.
    """
    try:
        small = shapes_of(type(network), _with(network, entry, units // 2))
    # A class of transformers may raise anything for a configuration that makes no sense.
    except Exception:
        return None
    halved = {}
    for name, shape in dense.items():
        if small.get(name) == shape:
            continue
        layer = free.get(module_of(name))
        if layer is None or name != member(module_of(name), "weight") or layer.view.transposed:
            return None
        ratios = [divmod(a, units) for a in shape]
        sides = [
            i
            for i, (heads, rest) in enumerate(ratios)
            if not rest and small.get(name) == _resized(shape, i, heads * (units // 2))
        ]
        if len(sides) != 1:
            return None
        halved[module_of(name)] = sides[0]
    return halved or None


def _resized(shape: tuple[int, ...], side: int, size: int) -> tuple[int, ...]:
    return tuple(size if i == side else n for i, n in enumerate(shape))


def _with(network: nn.Module, entry: str, value: int) -> Any:
    """A network's configuration with another value of one entry."""
    config = deepcopy(cast(Any, network).config)
    setattr(config, entry, value)
    return config


def _near(outputs: Tensor, wanted: Tensor, other: Tensor) -> bool:
    """Whether outputs are those that are wanted, by far nearer to them than others are."""
    far = (other - wanted).abs().max()
    return bool(far > 0) and bool((outputs - wanted).abs().max() <= _ROUNDING * far)


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """A network that ran once, and can run again with changed values.

    Attributes:
        model: the network.
        run: runs it.
        order: its linear layers by module name, in the order in which they ran, each as often.
        outputs: its outputs.
    """

    model: Pretrained
    run: Callable[[], Tensor]
    order: Sequence[str]
    outputs: Tensor

    @staticmethod
    @torch.no_grad()
    def start(model: Pretrained, source: CalibrationInputs) -> _Trial:
        """Run the network and record the order of its layers."""
        samples = torch.from_numpy(source.inputs[:SAMPLES].copy())
        order: list[str] = []

        def record(name: str) -> Callable[..., None]:
            return lambda module, args, output: order.append(name)

        linear = [(n, m) for n, m in model.network.named_modules() if isinstance(m, nn.Linear)]
        with removed([m.register_forward_hook(record(n)) for n, m in linear]):
            outputs = source.run(model, samples)
        return _Trial(model, lambda: source.run(model, samples), order, outputs)

    def pairs(self, halved: Mapping[str, int], units: int) -> list[Block]:
        """The pairs that some layers are, named by their modules; empty if they are not."""
        groups = list(self._groups(halved))
        if any(len(group) != 4 for group in groups):
            return []
        for values in (2, 1, 0):  # the usual order first
            pairs = []
            for *writers, reader in groups:
                value = writers.pop(values)
                heads = self._module(value).out_features // units
                pairs.append(Block(units, tuple(writers), (), heads=heads))
                pairs.append(Block(units, (value,), (reader,), heads=heads))
            if self._fit(pairs):
                return pairs
        return []

    def _groups(self, halved: Mapping[str, int]) -> Iterator[list[str]]:
        """Layers whose rows are halved up to one whose columns are, in the order of their runs."""
        group: list[str] = []
        for name in self.order:
            if name in halved:
                group.append(name)
                if halved[name] == 1:
                    yield group
                    group = []
        if group or any(self.order.count(name) != 1 for name in halved):
            yield []  # layers that are not in a group, or run never or twice

    def _module(self, name: str) -> nn.Linear:
        return cast(nn.Linear, self.model.network.get_submodule(name))

    @torch.no_grad()
    def _fit(self, pairs: Sequence[Block]) -> bool:
        """Whether matrices between the layers of pairs cancel out, and matter one by one."""
        if any(
            len(side) != block.heads * block.units
            for block in pairs
            for side in (
                *(self._module(name).weight for name in block.writers),
                *(self._module(name).weight.T for name in block.readers),
            )
        ):
            return False
        generator = torch.Generator().manual_seed(0)
        first, second = [], []
        for block in pairs:
            noise = torch.randn(block.heads, block.units, block.units, generator=generator)
            eye = torch.eye(block.units)
            maps = (eye + _STRENGTH * noise / block.units**0.5).double()
            back = torch.linalg.inv(maps)
            first.append((block.writers[0], maps, False))
            if block.readers:
                second.append((block.readers[0], back, True))
            else:
                second.append((block.writers[1], back.transpose(1, 2), False))
        one, both = self._outputs(first), self._outputs([*first, *second])
        return _near(both, self.outputs, one)

    def _outputs(self, changes: Sequence[tuple[str, Tensor, bool]]) -> Tensor:
        """The outputs with layers' outputs, or inputs, multiplied by the matrix of each head."""

        def hook(maps: Tensor, read: bool) -> Callable[..., Any]:
            def change(x: Tensor) -> Tensor:
                parts = x.reshape(*x.shape[:-1], *maps.shape[:2]).double()
                new = torch.einsum("...hi,hji->...hj", parts, maps.to(x.device))
                return new.flatten(-2).to(x)

            if read:
                return lambda module, args: (change(args[0]), *args[1:])
            return lambda module, args, output: change(output)

        hooks = [
            self._module(name).register_forward_pre_hook(hook(maps, read))
            if read
            else self._module(name).register_forward_hook(hook(maps, read))
            for name, maps, read in changes
        ]
        with removed(hooks):
            return self.run()

    @torch.no_grad()
    def is_width(self, entry: str, units: int, halved: Mapping[str, int]) -> bool:
        """Whether a network with half of an entry does what this one does without these units."""
        dense, half = self.model.network, units // 2
        state = dict(dense.state_dict())
        for name, side in halved.items():
            key = member(name, "weight")
            kept = torch.arange(state[key].shape[side], device=state[key].device) % units < half
            state[key] = state[key].index_select(side, kept.nonzero().flatten())
        small = type(dense)(_with(dense, entry, half))
        small.load_state_dict(state)
        zeroed = torch.diag((torch.arange(units) < half).double())[None]
        changes = [
            (name, zeroed.expand(self._module(name).out_features // units, -1, -1), False)
            for name, side in halved.items()
            if side == 0
        ]
        wanted = self._outputs(changes)
        self.model.network = small.eval().to(wanted)
        try:
            return _near(self.run(), wanted, self.outputs)
        finally:
            self.model.network = dense
