"""Networks in few bits as ONNX files, in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

import rmtcli  # noqa: E402
from rmtcli.errors import UsageError  # noqa: E402
from rmtcli.integrations.onnx import export  # noqa: E402

#: Types of ONNX.
INT8, INT4 = onnx.TensorProto.INT8, onnx.TensorProto.INT4


class Net(nn.Module):
    """A table, a layer whose rows no group divides, and a head that is tied to the table."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(60, 40)
        self.fc1 = nn.Linear(40, 150)
        self.fc2 = nn.Linear(150, 40)
        self.head = nn.Linear(40, 60, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.fc2(self.fc1(self.embed(tokens)).relu()).mean(1))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path: Path = tmp_path_factory.mktemp("onnx") / "net.safetensors"
    save_file({k: v.clone() for k, v in Net().state_dict().items()}, path)
    return path


def packed(dense: Path, folder: Path, **options: Any) -> nn.Module:
    rmtcli.prune(dense, folder / "small.safetensors", **options)
    return rmtcli.load(Net(), folder / "small.safetensors", packed=True).eval()


@pytest.mark.filterwarnings("ignore")  # the exporter warns of its deprecation
@pytest.mark.parametrize(("bits", "kind"), [(8, INT8), (4, INT4), (3, INT4)])
@pytest.mark.parametrize("layout", ["factored", "pivoted"])
def test_weights_stay_whole_numbers_and_outputs_are_equal(
    dense: Path, tmp_path: Path, bits: int, kind: int, layout: str
) -> None:
    model = packed(dense, tmp_path, bits=bits, keep="rank:k=20", layout=layout)
    tokens = torch.randint(0, 60, (7, 5))
    before = model(tokens)
    export(model, (tokens,), tmp_path / "net.onnx", input_names=["tokens"])
    assert torch.equal(model(tokens), before)
    graph = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(graph, full_check=True)
    weights = [x for x in graph.graph.initializer if len(x.dims) == 2 and x.data_type == kind]
    # The table is there once, though the head is tied to it.
    assert [tuple(x.dims) for x in weights].count((60, 40)) == 1
    others = (x for x in graph.graph.initializer if x not in weights)
    assert max(np.prod(x.dims) for x in others) <= 400
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {"tokens": tokens.numpy()})
    np.testing.assert_allclose(outputs, before.detach().numpy(), atol=1e-5)


def test_wrong_targets_are_refused(dense: Path, tmp_path: Path) -> None:
    model = packed(dense, tmp_path, bits=8, keep="rank:k=20")
    (tmp_path / "there.onnx").write_text("mine")
    for name, message in (("net.pt", "must end in .onnx"), ("there.onnx", "exists already")):
        with pytest.raises(UsageError, match=message):
            export(model, (torch.zeros(1, 5, dtype=torch.long),), tmp_path / name)
