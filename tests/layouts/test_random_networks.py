"""Networks drawn at random, in every layout: loaded, they equal their densified form."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

import rmtcli
from rmtcli.layouts import LAYOUTS
from rmtcli.planning import Budget

#: Kinds with hidden layers that can be made narrower.
NARROWED = ("mlp", "norm")
KINDS = ("mlp", "residual", "norm", "lstm", "gru", "attention", "convolution", "tied")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SELECTION = rmtcli.Selection(min_side=4, convolutions=True, recurrent=True)


class Drawn(nn.Module):
    """A network of one kind and of random widths, from 3 channels of ``side`` values to classes."""

    def __init__(self, kind: str, widths: list[int], bias: bool) -> None:
        super().__init__()
        side, width, *_ = widths
        self.kind, self.first = kind, nn.Linear(side, width, bias=bias)
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=bias) for _ in range(2))
        if kind == "tied":
            self.layers[1].weight = self.layers[0].weight
        if kind == "norm":
            self.norm = nn.BatchNorm1d(width)
        if kind in ("lstm", "gru"):
            cell = {"lstm": nn.LSTM, "gru": nn.GRU}[kind]
            self.steps = cell(width, width, batch_first=True, bias=bias, bidirectional=bias)
            self.join = nn.Linear(width * (1 + bias), width)
        if kind == "attention":
            self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        if kind == "convolution":
            self.kernel = nn.Conv1d(3, width, 3, padding=1, bias=bias)
            self.inner = nn.Conv1d(width, 3, 3, padding=2, dilation=2)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, shape (samples, 5), for inputs of shape (samples, 3, side)."""
        if self.kind == "convolution":
            x = self.inner(torch.tanh(self.kernel(x)))
        x = torch.tanh(self.first(x))
        if self.kind in ("lstm", "gru"):
            x = self.join(self.steps(x)[0])
        if self.kind == "attention":
            scores = self.query(x) @ self.key(x).transpose(1, 2) / x.shape[-1] ** 0.5
            x = scores.softmax(-1) @ self.value(x)
        for layer in self.layers:
            x = x + torch.tanh(layer(x)) if self.kind == "residual" else torch.tanh(layer(x))
        if self.kind == "norm":
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return self.head(x.mean(1))


def check(seed: int, folder: Path) -> None:
    """Draw a network, prune it under a budget of bytes, load it and its densified form.

    Beside a narrower network is a module of ordinary layers in the shapes of the file.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    kind, layout = str(rng.choice(KINDS)), str(rng.choice(list(LAYOUTS.choices)))
    layout = "auto" if layout == "narrow" and kind not in NARROWED else layout
    dtype, ending = DTYPES[rng.integers(4)], str(rng.choice([".pt", ".safetensors"]))
    widths, bias = [int(w) for w in rng.integers(8, 48, 2)], bool(rng.integers(2))
    model = Drawn(kind, widths, bias).to(dtype)
    dense, small, back = (folder / f"{name}{seed}{ending}" for name in ("dense", "small", "back"))
    if ending == ".pt":
        torch.save(model.state_dict(), dense)
    else:
        save_model(model, str(dense))
    options: dict[str, Any] = {"selection": SELECTION, "layout": layout}
    if LAYOUTS.parse(layout).narrows:
        inputs = rng.standard_normal((60, 3, widths[0])).astype(np.float32)
        np.savez(folder / f"{seed}.npz", inputs=inputs)
        options["calibration"] = rmtcli.Calibration(folder / f"{seed}.npz")
        options["evaluation"] = rmtcli.Evaluation(model=lambda: Drawn(kind, widths, bias))
    if layout == "dense":
        report = rmtcli.prune(dense, small, keep="rank:k=3", **options)
    else:
        share = int(rng.integers(60, 95))
        options["bits"] = "none"
        report = rmtcli.prune(dense, small, budget=Budget(f"{share}%", "bytes"), **options)
        before, after = report.tensor_bytes
        assert after <= share / 100 * before + 1, (seed, kind, layout)
    assert report.pruned, (seed, kind, layout)
    if any(plan.layout.splits for plan in report.pruned):
        rmtcli.densify(small, back)
    else:
        back = small
    if LAYOUTS.parse(layout).narrows:
        other = narrower(model, back)
    else:
        other = rmtcli.load(copy.deepcopy(model), back)
    networks = rmtcli.load(copy.deepcopy(model), small), other
    loaded, plain = (network.eval().double() for network in networks)
    x = torch.randn(4, 3, model.first.in_features, dtype=torch.float64)
    a, b = loaded(x), plain(x)
    # The densified weight is rounded once more, in the network's type.
    rounding = 40 * torch.finfo(dtype).eps if dtype != torch.float64 else 1e-11
    assert (a - b).abs().max() <= rounding * (1 + b.abs().max()), (seed, kind, layout, dtype)


def narrower(model: nn.Module, file: Path) -> nn.Module:
    """A module with the tensors of a file of dense layers, in linear layers of their shapes."""
    made = copy.deepcopy(model)
    state = torch.load(file) if file.suffix == ".pt" else load_file(file)
    for name, module in list(made.named_modules()):
        weight = state.get(f"{name}.weight")
        if isinstance(module, nn.Linear) and weight is not None and weight.ndim == 2:
            out, inputs = weight.shape
            linear = nn.Linear(inputs, out, module.bias is not None, dtype=weight.dtype)
            made.set_submodule(name, linear)
    missing, unexpected = made.load_state_dict(state, strict=False)
    if getattr(model, "kind", "") == "tied":  # one of two names of a weight is in the file
        made.layers[1].weight = made.layers[0].weight
        missing = [name for name in missing if name not in ("layers.0.weight", "layers.1.weight")]
    assert not missing
    assert not unexpected
    return made


@pytest.mark.parametrize("seed", range(24))
def test_a_drawn_network_equals_its_densified_form(seed: int, tmp_path: Path) -> None:
    check(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(24, 224, 20))
def test_many_drawn_networks_equal_their_densified_form(start: int, tmp_path: Path) -> None:
    for seed in range(start, start + 20):
        check(seed, tmp_path)
