"""Small ONNX graphs of two linear layers, in the forms that exporters give them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INPUTS, HIDDEN, OUTPUTS = 40, 48, 36


def values(*shape: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32) / 8


def model(
    nodes: Sequence[onnx.NodeProto],
    tensors: dict[str, Any],
    width: int = INPUTS,
    opset: int = 17,
    version: int = 8,
) -> onnx.ModelProto:
    """A graph from ``x`` to ``y``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "k"])],
        [numpy_helper.from_array(x, name) for name, x in tensors.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = version
    made.metadata_props.add(key="task", value="digits")
    return made


W1, B1 = values(HIDDEN, INPUTS), values(HIDDEN, seed=1)
W2, B2 = values(OUTPUTS, HIDDEN, seed=2), values(OUTPUTS, seed=3)
node = helper.make_node
RELU = node("Relu", ["h"], ["r"])


def gemm() -> onnx.ModelProto:
    """As torch writes linear layers of matrices."""
    nodes = [
        node("Gemm", ["x", "fc1.weight", "fc1.bias"], ["h"], "/fc1/Gemm", transB=1),
        RELU,
        node("Gemm", ["r", "fc2.weight", "fc2.bias"], ["y"], "/fc2/Gemm", transB=1),
    ]
    return model(nodes, {"fc1.weight": W1, "fc1.bias": B1, "fc2.weight": W2, "fc2.bias": B2})


def matmul() -> onnx.ModelProto:
    """As torch writes linear layers of sequences: weights are transposed, and lose their names."""
    nodes = [
        node("MatMul", ["x", "onnx::MatMul_7"], ["m"], "/fc1/MatMul"),
        node("Add", ["fc1.bias", "m"], ["h"], "/fc1/Add"),
        RELU,
        node("MatMul", ["r", "onnx::MatMul_8"], ["y"], "/fc2/MatMul"),
    ]
    return model(nodes, {"onnx::MatMul_7": W1.T.copy(), "fc1.bias": B1, "onnx::MatMul_8": W2.T})


def flipped() -> onnx.ModelProto:
    """Weights that nodes transpose, copy or make; in a version in which initialisers are inputs."""
    constant = numpy_helper.from_array(W2.T.copy())
    nodes = [
        node("Transpose", ["fc1.weight"], ["t"], "t", perm=[1, 0]),
        node("Identity", ["t"], ["u"]),
        node("Constant", [], ["fc2.weight"], value=constant),
        node("MatMul", ["x", "u"], ["h"]),
        RELU,
        node("Gemm", ["r", "fc2.weight", "c"], ["y"]),
    ]
    made = model(nodes, {"fc1.weight": W1, "c": B2[None]}, opset=11, version=3)
    for name, shape in (("fc1.weight", W1.shape), ("c", (1, OUTPUTS))):
        info = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        made.graph.input.append(info)
    return made


def tied() -> onnx.ModelProto:
    """A weight that two nodes multiply by, each with a bias of its own."""
    nodes = [
        node("MatMul", ["x", "fc1.weight"], ["m"]),
        node("Add", ["m", "b1"], ["a"]),
        node("Neg", ["x"], ["z"]),
        node("Gemm", ["z", "fc1.weight", "b2"], ["b"]),
        node("Add", ["a", "b"], ["h"]),
        RELU,
        node("Gemm", ["r", "fc2.weight"], ["y"], transB=1),
    ]
    two = {"b1": B1, "b2": values(HIDDEN, seed=4)}
    return model(nodes, {"fc1.weight": W1.T.copy(), "fc2.weight": W2, **two})


GRAPHS: dict[str, Callable[[], onnx.ModelProto]] = {
    "gemm": gemm,
    "matmul": matmul,
    "flipped": flipped,
    "tied": tied,
}
