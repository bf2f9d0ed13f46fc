"""Modules of every layout under ``torch.compile`` and ``torch.export``."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import rmtcli
from rmtcli.layers import Selection
from rmtcli.layouts.pivoted_module import PivotedModule
from rmtcli.layouts.recurrent import Recurrent


class Net(nn.Module):
    """A table, a recurrent layer, a convolution, and linear layers with and without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(60, 24)
        self.gru = nn.GRU(24, 24, batch_first=True)
        self.conv = nn.Conv1d(24, 32, 3, padding=1)
        self.up = nn.Linear(32, 64)
        self.down = nn.Linear(64, 32)
        self.head = nn.Linear(32, 60, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x, _ = self.gru(self.embed(tokens))
        x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return self.head(self.down(self.up(x).relu()).mean(1))  # type: ignore[no-any-return]


WIDE = Selection(convolutions=True, recurrent=True)
#: How each network is made.
LAYOUTS: dict[str, dict[str, Any]] = {
    "factored": {"layout": "factored", "keep": "rank:k=8", "selection": WIDE},
    "pivoted": {"layout": "pivoted", "keep": "rank:k=8", "selection": WIDE},
    "few bits": {"layout": "pivoted", "keep": "rank:k=8", "bits": 4, "selection": WIDE},
}


@pytest.fixture(scope="module", params=LAYOUTS)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    folder: Path = tmp_path_factory.mktemp("compiled")
    torch.manual_seed(0)
    save_file(Net().state_dict(), folder / "net.safetensors")
    options = LAYOUTS[request.param]
    rmtcli.prune(folder / "net.safetensors", folder / "small.safetensors", **options)
    model = rmtcli.load(Net(), folder / "small.safetensors", packed="bits" in options).eval()
    assert isinstance(model.gru, Recurrent)
    assert isinstance(model.up, PivotedModule) == (options["layout"] == "pivoted")
    return model


def tokens(samples: int) -> torch.Tensor:
    return torch.randint(0, 60, (samples, 3), generator=torch.Generator().manual_seed(samples))


def test_export_has_any_number_of_samples(network: nn.Module) -> None:
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    exported = torch.export.export(network, (tokens(4),), dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    torch.testing.assert_close(loaded(tokens(7)), network(tokens(7)))


def test_compiled_in_one_graph(network: nn.Module) -> None:
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens(4)), network(tokens(4)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch warns of its own deprecations
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's compiler needs a C++ compiler")
def test_compiled_to_machine_code(network: nn.Module) -> None:
    compiled = torch.compile(network, fullgraph=True)
    torch.testing.assert_close(compiled(tokens(4)), network(tokens(4)))
