"""Find hidden layers that can be made narrower, by disturbing a network while it runs.

Nothing is taken from names or types of architectures. A layer *writes* the inputs of another, its
reader, if a change of some of its outputs changes the reader's inputs at these positions and
nowhere else, and changes nothing in the network's outputs while the reader gets its old inputs. So
each unit is computed on its own, and nothing but the reader uses it. The writers are complete if,
from other samples, the reader gets its old inputs while they give their old outputs. Normalisation
over the units, attention, convolutions and skip connections fail one of these tests; activations,
gates, dropout and BatchNorm pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.names import member, module_of
from rmtcli.errors import EvaluationError
from rmtcli.evaluation.pretrained import Pretrained
from rmtcli.layers import Block, Layer
from rmtcli.layouts.wrapped import naming
from rmtcli.running.calibrate import CalibrationInputs
from rmtcli.running.modules import modules_of
from rmtcli.running.observe import equal, removed

#: Number of samples on which the network runs.
SAMPLES = 16


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """One call of a module: its name, what it read, and what it returned."""

    module: str
    read: Tensor
    returned: Tensor


def find_blocks(
    model: nn.Module, checkpoint: Checkpoint, layers: Sequence[Layer], source: CalibrationInputs
) -> list[Block]:
    """The blocks of a network, in the order in which it runs them.

    Args:
        model: the network, in evaluation mode.
        checkpoint: its weights.
        layers: the layers that may be changed.
        source: what the network runs on.
    """
    free = unshared(model, checkpoint, layers)
    search = _Search.start(model, source, free)
    names = _names(model, checkpoint)
    made = (_block(search, readers, free, names) for readers in search.readers())
    used = checkpoint.infos.keys() - _shared(checkpoint)
    return [
        block
        for block in made
        if block is not None and used >= {*block.vectors, *_biases(checkpoint, block)}
    ]


def unshared(model: nn.Module, checkpoint: Checkpoint, layers: Sequence[Layer]) -> dict[str, Layer]:
    """The linear layers whose weight no other layer has, by the name of their only module."""
    shared, modules = _shared(checkpoint), modules_of(model, checkpoint, layers)
    return {
        names[0]: layer
        for layer in layers
        for names in (modules[layer.name],)
        if len(names) == 1 and layer.linear and not layer.tied and layer.tensor not in shared
    }


def _shared(checkpoint: Checkpoint) -> set[str]:
    return {*checkpoint.aliases, *checkpoint.aliases.values()}


def _biases(checkpoint: Checkpoint, block: Block) -> Iterator[str]:
    """The biases that are cut or shifted with a block."""
    for name in block.layers:
        if (bias := member(module_of(name), "bias")) in checkpoint.infos:
            yield bias


def _names(model: nn.Module, checkpoint: Checkpoint) -> Mapping[str, str]:
    """The checkpoint's name of each tensor of a plain module."""
    if isinstance(model, Pretrained):
        return {}
    own = naming(model, checkpoint)
    pairs = ((own(name), name) for name in checkpoint.infos)
    return {known: name for known, name in pairs if known is not None}


def _block(
    search: _Search,
    readers: Sequence[_Call],
    free: Mapping[str, Layer],
    names: Mapping[str, str],
) -> Block | None:
    """The block that some layers read, which all read one tensor; None if there is none."""
    if any(call.module not in free for call in readers):
        return None
    writers = search.writers(readers)
    vectors = search.vectors(writers, readers) if writers else []
    if not writers or not names.keys() >= set(vectors):
        return None
    return Block(
        readers[0].read.shape[-1],
        tuple(free[call.module].name for call in writers),
        tuple(free[call.module].name for call in readers),
        tuple(names[vector] for vector in vectors),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    """A network that ran once, and can run again with disturbed values.

    Attributes:
        model: the network.
        run: runs it on samples.
        samples: the samples.
        calls: calls of all modules that hold tensors of their own, in order.
        outputs: the network's outputs.
        linear: the modules that may be writers or readers.
    """

    model: nn.Module
    run: Callable[[Tensor], Tensor]
    samples: Tensor
    calls: Sequence[_Call]
    outputs: Tensor
    linear: frozenset[str]

    @staticmethod
    @torch.no_grad()
    def start(model: nn.Module, source: CalibrationInputs, linear: Mapping[str, Any]) -> _Search:
        """Run the network once and record its calls."""
        samples = torch.from_numpy(source.inputs[:SAMPLES].copy())
        source.reading(model)  # decided here, as it may run the network too
        calls: list[_Call] = []

        def record(name: str) -> Callable[..., None]:
            def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
                if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                    calls.append(_Call(name, args[0], output.clone()))

            return hook

        hooks = [
            module.register_forward_hook(record(name))
            for name, module in model.named_modules()
            if module._parameters or module._buffers
        ]
        with removed(hooks):
            outputs = source.run(model, samples)

        def run(x: Tensor) -> Tensor:
            return source.run(model, x)

        return _Search(model, run, samples, calls, outputs, frozenset(linear))

    def readers(self) -> Iterator[list[_Call]]:
        """Calls of layers, those that read the same tensor together."""
        groups: dict[int, list[_Call]] = {}
        counts: dict[str, int] = {}
        for call in self.calls:
            counts[call.module] = counts.get(call.module, 0) + 1
            if call.module in self.linear:
                groups.setdefault(id(call.read), []).append(call)
        for group in groups.values():
            if all(counts[call.module] == 1 for call in group):
                yield group

    def writers(self, readers: Sequence[_Call]) -> list[_Call]:
        """The layers that write what some layers read, in order; those just before are tried."""
        writers: list[_Call] = []
        names = [call.module for call in self.calls]
        for call in reversed(self.calls[: names.index(readers[0].module)]):
            if call.module not in self.linear or call.returned.shape != readers[0].read.shape:
                continue
            if names.count(call.module) > 1 or not self._writes(call, readers):
                break
            writers.insert(0, call)
        return writers if self._complete(writers, readers) else []

    def vectors(self, writers: Sequence[_Call], readers: Sequence[_Call]) -> list[str]:
        """Names of tensors with one value per unit, of the modules between writers and readers."""
        names = [call.module for call in self.calls]
        between = names[names.index(writers[0].module) : names.index(readers[0].module)]
        units, vectors = readers[0].read.shape[-1], []
        for name in dict.fromkeys(x for x in between if x not in self.linear):
            module = self.model.get_submodule(name)
            own = {**module._parameters, **module._buffers}
            some = {k: t for k, t in own.items() if t is not None and t.shape == (units,)}
            if some and self._scales(list(some.values()), readers):
                vectors += [member(name, key) for key in some]
        return vectors

    def _writes(self, writer: _Call, readers: Sequence[_Call]) -> bool:
        """Whether a layer's outputs are the inputs of others, one by one, and of nothing else."""
        generator = torch.Generator().manual_seed(0)
        mask = torch.rand(writer.returned.shape, generator=generator) < 0.5
        noise = torch.randn(writer.returned.shape, generator=generator).to(writer.returned)
        changed = mask.to(writer.returned.device)
        change = noise * changed * (writer.returned.std() + 1e-3)
        hook = self.model.get_submodule(writer.module).register_forward_hook(
            lambda module, args, output: output + change
        )
        with removed([hook]):
            return self._local(readers, changed)

    def _scales(self, tensors: Sequence[Tensor], readers: Sequence[_Call]) -> bool:
        """Whether each entry of some tensors belongs to one unit, and to nothing else."""
        mask = torch.arange(len(tensors[0]), device=tensors[0].device) % 2 == 0
        old = [tensor.data for tensor in tensors]  # which another network may share
        for tensor in tensors:
            tensor.data = torch.where(mask, tensor.data * 1.5 + 0.5, tensor.data)
        try:
            return self._local(readers, mask.expand(readers[0].read.shape))
        finally:
            for tensor, values in zip(tensors, old, strict=True):
                tensor.data = values

    @torch.no_grad()
    def _complete(self, writers: Sequence[_Call], readers: Sequence[_Call]) -> bool:
        """Whether nothing but the writers' outputs decides what the readers read."""

        def replay(call: _Call) -> Callable[..., Tensor]:
            return lambda module, args, output: call.returned.clone()

        hooks = [
            self.model.get_submodule(call.module).register_forward_hook(replay(call))
            for call in writers
        ]
        arrived, more = self._watched(readers)
        with removed([*hooks, *more]):
            try:
                self.run(self.samples.flip(0))
            except EvaluationError:  # experts get other tokens: old outputs do not fit
                return False
        return all(equal(old.read, new) for old, new in zip(readers, arrived, strict=True))

    def _watched(self, readers: Sequence[_Call]) -> tuple[list[Tensor], list[Any]]:
        """A list that fills with what the readers read, while they get their old inputs; hooks."""
        arrived: list[Tensor] = []

        def restore(call: _Call) -> Callable[..., Any]:
            def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
                arrived.append(args[0])
                return (call.read, *args[1:])

            return hook

        modules = ((self.model.get_submodule(call.module), call) for call in readers)
        return arrived, [m.register_forward_pre_hook(restore(call)) for m, call in modules]

    @torch.no_grad()
    def _local(self, readers: Sequence[_Call], mask: Tensor) -> bool:
        """Whether a disturbance reaches the readers' inputs at ``mask`` only, and nothing else."""
        arrived, hooks = self._watched(readers)
        with removed(hooks):
            outputs = self.run(self.samples)
        if len(arrived) != len(readers) or not equal(outputs, self.outputs):
            return False
        return all(_changed(old.read, new, mask) for old, new in zip(readers, arrived, strict=True))


def _changed(old: Tensor, new: Tensor, mask: Tensor) -> bool:
    """Whether values changed at some entries of a mask, and at no others."""
    return (
        old.shape == new.shape
        and not equal(old, new)
        and equal(old.masked_fill(mask, 0), new.masked_fill(mask, 0))
    )
