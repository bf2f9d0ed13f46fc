"""Hidden layers are recognised by disturbing a network, whatever its architecture."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rmtcli import Calibration, Evaluation
from rmtcli.checkpoint import open_checkpoint
from rmtcli.evaluation.network import build
from rmtcli.evaluation.pretrained import Pretrained
from rmtcli.layers import Block, Layer, find_layers
from rmtcli.running.blocks import find_blocks
from rmtcli.running.calibrate import CalibrationInputs
from rmtcli.running.entries import entries_of
from tests.evaluation.test_tasks import TASKED, data_for, directory

WIDTH, UNITS = 6, 10


class Net(nn.Module):
    """Layers around a hidden layer of one kind, between a first layer and the head."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first = nn.Linear(8, WIDTH)
        self.up, self.gate = nn.Linear(WIDTH, UNITS), nn.Linear(WIDTH, UNITS)
        self.norm = nn.BatchNorm1d(UNITS) if kind == "batchnorm" else nn.LayerNorm(UNITS)
        self.act = nn.ReLU(inplace=True) if kind == "inplace" else nn.GELU()
        self.down, self.other = nn.Linear(UNITS, WIDTH), nn.Linear(UNITS, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x)
        h = self.act(self.up(skip))
        if self.kind == "gated":
            h = h * self.gate(skip)
        elif self.kind in ("batchnorm", "layernorm"):
            h = self.norm(h)
        elif self.kind == "softmax":
            h = h.softmax(-1)
        elif self.kind == "attention":
            h = (h @ h.T).softmax(-1) @ h
        elif self.kind == "twice":
            h = self.act(self.up(self.down(h)))
        out = skip + self.down(h)
        if self.kind == "two readers":
            out = out * self.other(h)
        elif self.kind == "leak":
            out = out + h.mean(-1, keepdim=True)
        result: Tensor = self.head(out)
        return result


def blocks_of(model: nn.Module, folder: Path) -> list[Block]:
    torch.manual_seed(0)
    save_file(model.state_dict(), folder / "net.safetensors")
    save_file({"inputs": torch.randn(40, 8)}, folder / "data.safetensors")
    harness = Evaluation(folder / "data.safetensors").resolve(
        open_checkpoint(folder / "net.safetensors")
    )
    source = CalibrationInputs.read(Calibration(folder / "data.safetensors"), harness)
    layers = [item for item in find_layers(harness.checkpoint) if isinstance(item, Layer)]
    return find_blocks(model.eval(), harness.checkpoint, layers, source)


#: Kinds of hidden layers -> (writers, readers, vectors); None where there must be no block.
KINDS: dict[str, tuple[str, str, str] | None] = {
    "plain": ("up", "down", ""),
    "inplace": ("up", "down", ""),
    "gated": ("up gate", "down", ""),
    "batchnorm": ("up", "down", "weight bias running_mean running_var"),
    "two readers": ("up", "down other", ""),
    "layernorm": None,
    "softmax": None,
    "attention": None,
    "leak": None,
    "twice": None,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_is_what_writes_and_reads_units_one_by_one(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    blocks = blocks_of(Net(kind), tmp_path)
    expected = KINDS[kind]
    if expected is None:
        assert blocks == []
        return
    writers, readers, vectors = ([*names.split()] for names in expected)
    (block,) = blocks
    assert block.units == UNITS
    assert block.writers == tuple(f"{name}.weight" for name in writers)
    assert block.readers == tuple(f"{name}.weight" for name in readers)
    assert block.vectors == tuple(f"norm.{name}" for name in vectors)


def test_a_chain_has_a_block_at_every_hidden_layer(tmp_path: Path) -> None:
    model = nn.Sequential(
        *(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 20), nn.Tanh(), nn.Dropout()),
        *(nn.Linear(20, 12), nn.Linear(12, 4)),
    )
    pairs = [(block.writers, block.readers) for block in blocks_of(model, tmp_path)]
    names = ["0.weight", "2.weight", "5.weight", "6.weight"]
    assert pairs == [((a,), (b,)) for a, b in pairwise(names)]


def test_a_disturbed_network_is_left_as_it_was(tmp_path: Path) -> None:
    model = Net("batchnorm")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    blocks_of(model, tmp_path)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


#: Case -> (writers per block, blocks, configuration's entry).
FAMILIES = {
    "bert": (1, 2, "intermediate_size"),
    "bert-head": (1, 2, "intermediate_size"),
    "gpt2": (1, 2, "n_inner"),
    "llama": (2, 2, "intermediate_size"),
    "vit": (1, 2, "intermediate_size"),
    "mixtral": (2, 6, None),
}


@pytest.mark.parametrize("case", FAMILIES)
def test_the_mlps_of_transformers_and_the_entries_of_their_widths(
    case: str, tmp_path: Path
) -> None:
    source, data = directory(case, tmp_path), data_for(case, tmp_path)
    checkpoint = open_checkpoint(source)
    harness = Evaluation(data, task=TASKED[case]).resolve(checkpoint)
    model = build(harness)
    assert isinstance(model, Pretrained)
    layers = [item for item in find_layers(checkpoint) if isinstance(item, Layer)]
    blocks = find_blocks(
        model, checkpoint, layers, CalibrationInputs.read(Calibration(data), harness)
    )
    writers, count, entry = FAMILIES[case]
    # A classifier's pooler writes a hidden layer too, but its width is that of the whole network.
    mlps = [block for block in blocks if "pooler" not in block.writers[0]]
    assert [len(block.writers) for block in mlps] == [writers] * count
    assert entries_of(model, blocks) == ({} if entry is None else {entry: mlps})
