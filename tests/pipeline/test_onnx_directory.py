"""``prune --onnx``: a graph beside the weights of a directory, which onnxruntime runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

import rmtcli  # noqa: E402
from rmtcli.errors import EvaluationError, UsageError  # noqa: E402
from tests.integrations.factored import CASES, load  # noqa: E402


def dense(name: str, folder: Path) -> Path:
    CASES[name].model().save_pretrained(folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("name", "options", "output"),
    [
        ("bert-head", {"layout": "pivoted"}, "logits"),
        ("bert-head", {"bits": 4}, "logits"),
        ("bert", {"evaluation": rmtcli.Evaluation(task="sentence-embedding")}, "last_hidden_state"),
        ("vit", {}, "logits"),
    ],
)
def test_a_graph_computes_what_torch_computes(
    name: str, options: dict[str, Any], output: str, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    report = rmtcli.prune(dense(name, tmp_path), small, keep="rank:k=5", onnx=True, **options)
    assert any("onnx/model.onnx" in note for note in report.notes)
    file = small / "onnx" / "model.onnx"
    kinds = {tensor.data_type for tensor in onnx.load(file).graph.initializer}
    assert (onnx.TensorProto.INT4 in kinds) == ("bits" in options)
    inputs = CASES[name].inputs()
    if "pixel_values" not in inputs:  # of a number of texts and positions of its own
        inputs = {"input_ids": inputs["input_ids"].repeat(3, 2)[:, :9]}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (outputs,) = session.run([output], {key: value.numpy() for key, value in inputs.items()})
    with torch.no_grad():
        expected = getattr(load(small, CASES[name])(**inputs), output).numpy()
    np.testing.assert_allclose(outputs, expected, atol=1e-4 * np.abs(expected).max())


def test_a_graph_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmtcli.running.onnx_file._difference", lambda *_: 0.03)
    with pytest.raises(EvaluationError, match=r"differ from torch's by 3\.0e-02"):
        rmtcli.prune(dense("bert-head", tmp_path), tmp_path / "small", keep="rank:k=5", onnx=True)
    assert [path.name for path in tmp_path.iterdir()] == ["bert-head"]


def test_what_has_no_single_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="generates text"):
        rmtcli.prune(dense("llama", tmp_path), tmp_path / "small", onnx=True)
    torch.save({"a.weight": torch.randn(60, 50)}, tmp_path / "a.pt")
    with pytest.raises(UsageError, match="is for Hugging Face directories"):
        rmtcli.prune(tmp_path / "a.pt", onnx=True)
