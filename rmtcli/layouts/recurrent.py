"""Recurrent layers of torch, step by step, with a module of its own for each of their matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rmtcli.checkpoint.names import bias_of, is_recurrent, unit_of
from rmtcli.layouts.split import RECURRENT

#: State of a layer in one direction: h, and for an LSTM c, of shape (batch, …) each.
State = tuple[Tensor, ...]


class Map(nn.Linear):
    """One matrix of a recurrent layer with its bias, under the names that torch has for them."""

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        name = prefix.removesuffix(".")
        for key, value in ((name, self.weight), (bias_of(name), self.bias)):
            if value is not None:
                destination[key] = value if keep_vars else value.detach()


class _Maps(nn.Module):
    """The matrices of a recurrent layer as modules, and one step of its recurrence.

    Args:
        source: the layer, whose parameters are used.
        split: by name of a matrix, such as ``weight_ih_l0``, the module that takes its place.
    """

    def __init__(self, source: nn.Module, split: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name in cast(Sequence[str], source.__constants__):
            setattr(self, name, getattr(source, name))
        kind = next(kind for kind in RECURRENT if isinstance(source, kind))
        self.kind = kind.__name__.removesuffix("Cell")
        relu = getattr(source, "nonlinearity", "tanh") == "relu"
        self.activation = torch.relu if relu else torch.tanh
        for name in matrices_of(source):
            self.add_module(name, split.get(name) or linear_of(source, name, Map))
        self.train(source.training)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name, module in self.named_children():
            old = f"{prefix}{name}"
            if isinstance(module, Map):
                for key, end in ((old, "weight"), (bias_of(old), "bias")):
                    if key in state:
                        state[f"{old}.{end}"] = state.pop(key)
        super()._load_from_state_dict(state, prefix, *rest)

    def step(self, inputs: Tensor, state: State, end: str) -> State:
        """Return the state after one more step.

        Args:
            inputs: shape (batch, gates · hidden): the inputs times their matrix, with the bias.
            state: the state before.
            end: end of the matrices' names, such as ``_l0_reverse``.
        """
        h = state[0]
        own = self._modules[f"weight_hh{end}"](h)  # type: ignore[misc]
        if self.kind == "RNN":
            return (self.activation(inputs + own),)
        if self.kind == "GRU":
            (r, z, n), (own_r, own_z, own_n) = inputs.chunk(3, -1), own.chunk(3, -1)
            update = torch.sigmoid(z + own_z)
            new = torch.tanh(n + torch.sigmoid(r + own_r) * own_n)
            return (new + update * (h - new),)
        i, f, g, o = (inputs + own).chunk(4, -1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        projection = self._modules.get(f"weight_hr{end}")
        return (h if projection is None else projection(h)), c

    def _zeros(self, x: Tensor, *sides: int) -> State:
        """A state of zeros in the type of the inputs, of shape (…, width) each."""
        width: Any = getattr(self, "proj_size", 0) or self.hidden_size
        widths = (width, self.hidden_size) if self.kind == "LSTM" else (width,)
        return tuple(x.new_zeros(*sides, cast(int, width)) for width in widths)


class Cell(_Maps):
    """``nn.LSTMCell``, ``nn.GRUCell`` or ``nn.RNNCell`` with a module for each matrix."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:  # noqa: A002  torch's name
        """Return the next state, as torch's cell does."""
        if hx is None:
            hx = self._zeros(input, *input.shape[:-1])
        state = hx if isinstance(hx, tuple) else (hx,)
        new = self.step(self._modules["weight_ih"](input), state, "")  # type: ignore[misc]
        return new if self.kind == "LSTM" else new[0]


class Recurrent(_Maps):
    """``nn.LSTM``, ``nn.GRU`` or ``nn.RNN`` with a module for each matrix.

    It takes and returns what torch's layer does: padded or packed sequences, in one direction or
    two, with any number of layers, dropout between them, and an LSTM's projections. The steps are
    a loop in Python, so that it is slower than torch's layer where a step is little work.
    """

    def flatten_parameters(self) -> None:
        """Do nothing: torch's layer arranges its parameters for cuDNN here."""

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:  # noqa: A002  torch's name
        """Return the outputs of the last layer and the last states, as torch's layer does."""
        states = None if hx is None else (hx if isinstance(hx, tuple) else (hx,))
        if isinstance(input, PackedSequence):
            return self._packed(input, states)
        single, axis = input.ndim == 2, int(bool(self.batch_first))
        if single:
            input = input.unsqueeze(1 - axis)  # noqa: A001
            states = None if states is None else tuple(state.unsqueeze(1) for state in states)
        outputs, last = self._layers(input, None, states, input.shape[1 - axis])
        if single:
            outputs, last = outputs.squeeze(1 - axis), tuple(state.squeeze(1) for state in last)
        return outputs, last if self.kind == "LSTM" else last[0]

    def _packed(self, x: PackedSequence, states: State | None) -> tuple[PackedSequence, Any]:
        data, sizes, order, back = x
        if states is not None and order is not None:
            states = tuple(state[:, order] for state in states)
        outputs, last = self._layers(data, sizes.tolist(), states, int(sizes[0]))
        if back is not None:
            last = tuple(state[:, back] for state in last)
        packed = PackedSequence(outputs, sizes, order, back)
        return packed, last if self.kind == "LSTM" else last[0]

    def _layers(
        self, x: Tensor, sizes: list[int] | None, states: State | None, batch: int
    ) -> tuple[Tensor, State]:
        """Run all layers.

        Args:
            x: inputs of all steps: padded, or packed by steps.
            sizes: number of sequences that have each step; None for padded ones.
            states: states before the first step, shape (layers · directions, batch, …) each.
            batch: number of sequences.
        """
        ways = ("", "_reverse") if self.bidirectional else ("",)
        count = cast(int, self.num_layers) * len(ways)
        first = self._zeros(x, count, batch) if states is None else states
        last: list[State] = []
        for layer in range(cast(int, self.num_layers)):
            outputs = []
            for way in ways:
                state = tuple(part[len(last)] for part in first)
                out, state = self._run(x, sizes, state, f"_l{layer}{way}")
                outputs.append(out)
                last.append(state)
            x = torch.cat(outputs, -1) if len(ways) > 1 else outputs[0]
            if self.dropout and len(last) < count:
                x = nn.functional.dropout(x, cast(float, self.dropout), self.training)
        return x, tuple(torch.stack(parts) for parts in zip(*last, strict=True))

    def _run(
        self, x: Tensor, sizes: list[int] | None, state: State, end: str
    ) -> tuple[Tensor, State]:
        """Run one layer in one direction.

        Sequences of a packed batch are sorted by length: those that have ended, or, in reverse,
        have not begun, are the last ones, and keep their state.
        """
        axis = int(bool(self.batch_first))
        values = self._modules[f"weight_ih{end}"](x)  # type: ignore[misc]
        steps = values.unbind(axis) if sizes is None else torch.split(values, sizes)
        outputs: list[Tensor] = list(steps)
        times = range(len(steps))
        for time in reversed(times) if end.endswith("_reverse") else times:
            if sizes is None:
                state = self.step(steps[time], state, end)
                outputs[time] = state[0]
                continue
            rows = sizes[time]
            new = self.step(steps[time], tuple(part[:rows] for part in state), end)
            outputs[time] = new[0]
            rest = (part[rows:] for part in state)
            state = tuple(torch.cat(parts) for parts in zip(new, rest, strict=True))
        return (torch.stack(outputs, axis) if sizes is None else torch.cat(outputs)), state


def matrices_of(module: nn.Module) -> list[str]:
    """Names of a recurrent layer's matrices, such as ``weight_ih_l0``; empty for other modules.

    Empty as well for a class that computes anything but what torch's does, or holds anything more.
    """
    kind = next((kind for kind in RECURRENT if isinstance(module, kind)), None)
    if kind is None or type(module).forward is not kind.forward:
        return []
    names = list(module.state_dict())
    return [x for x in names if x == unit_of(x)] if all(map(is_recurrent, names)) else []


def linear_of(module: nn.Module, name: str, kind: type[nn.Linear] = nn.Linear) -> nn.Linear:
    """A linear map with one of a recurrent layer's matrices and its bias, which are shared."""
    weight, bias = module._parameters[name], module._parameters.get(bias_of(name))
    assert weight is not None
    made = kind(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight, made.bias = weight, bias  # type: ignore[assignment]
    return made


def in_steps(module: nn.Module, split: Mapping[str, nn.Module] | None = None) -> nn.Module:
    """A recurrent layer, or a cell of one, with a module for each of its matrices.

    Args:
        module: the layer.
        split: by name of a matrix, the module that takes its place; by default, none is split.
    """
    return (Recurrent if isinstance(module, nn.RNNBase) else Cell)(module, split or {})


def put_in_steps(model: nn.Module) -> nn.Module:
    """Replace the recurrent layers of a network, in place, so that their matrices are modules."""
    made: dict[int, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if matrices_of(module):
            new = made.setdefault(id(module), in_steps(module))
            if not name:
                return new
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, new)
    return model
