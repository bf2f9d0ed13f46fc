"""ONNX and GGUF files: data elsewhere, graphs that go in circles, names that attack."""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import onnx
from onnx import helper

from tests.attacks import attack
from tests.checkpoint.ggufs import F32, MAGIC, entry, gguf
from tests.checkpoint.graphs import gemm, node


def _outside(folder: Path, location: str, *, link: bool = False) -> str:
    """A graph whose first tensor is in another file: a secret outside of its folder."""
    (folder / "m").mkdir()
    (folder / "secret").write_bytes(b"secret".ljust(10_000))
    if link:
        (folder / "m/data").symlink_to(folder / "secret")
    made = gemm()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    onnx.save_model(made, folder / "m/a.onnx")
    return "prune m/a.onnx --keep rank:k=2 -o out.safetensors"


@attack("ONNX: data in the folder above")
def _above(folder: Path) -> str:
    return _outside(folder, "../secret")


@attack("ONNX: data behind an absolute path")
def _absolute(folder: Path) -> str:
    return _outside(folder, str(folder / "secret"))


@attack("ONNX: data behind a link")
def _link(folder: Path) -> str:
    return _outside(folder, "data", link=True)


def _further(graph: onnx.GraphProto) -> str:
    """The name of one more matrix."""
    graph.initializer.append(graph.initializer[0])
    graph.initializer[-1].name = "more.weight"
    return "more.weight"


def _in_circles(graph: onnx.GraphProto) -> None:
    for a, b in ((_further(graph), "p"), ("p", "q"), ("q", "p")):
        graph.node.append(node("Identity", [a], [b]))


def _long(graph: onnx.GraphProto) -> None:
    names = [_further(graph), *(f"v{i}" for i in range(50_000))]
    graph.node.extend(node("Identity", [a], [b]) for a, b in pairwise(names))


def _empty(graph: onnx.GraphProto) -> None:
    graph.node.extend(onnx.NodeProto() for _ in range(200_000))
    graph.node.extend(onnx.NodeProto(op_type=kind) for kind in ("Constant", "Identity", "MatMul"))


def _inside(graph: onnx.GraphProto) -> None:
    for _ in range(20):
        inner = onnx.GraphProto()
        inner.CopyFrom(graph)
        del graph.node[:], graph.initializer[:]
        graph.node.append(helper.make_node("Loop", ["x"], ["y"], body=inner))


def _circle_of_layers(graph: onnx.GraphProto) -> None:
    graph.node[0].input[0] = "y"


def _names(graph: onnx.GraphProto) -> None:
    name = "\x1b[2J\x1b]0;x\x07\n\r<script>{{7*7}}\u202e.weight"
    graph.initializer[0].name = graph.node[0].input[1] = name


#: What the graph has -> the change to it, and the exit code of the command.
GRAPHS: dict[str, tuple[Callable[[onnx.GraphProto], None], int]] = {
    "copies in a circle": (_in_circles, 0),
    "a chain of fifty thousand copies": (_long, 0),
    "two hundred thousand empty nodes": (_empty, 0),
    "graphs inside of graphs": (_inside, 1),
    "a circle of layers": (_circle_of_layers, 0),
    "a name of markup and control characters": (_names, 0),
}

for _claim, (_change, _code) in GRAPHS.items():

    @attack(f"ONNX: {_claim}", code=_code)
    def _graph(folder: Path, change: Callable[[onnx.GraphProto], None] = _change) -> str:
        made = gemm()
        change(made.graph)
        onnx.save_model(made, folder / "a.onnx")
        return "prune a.onnx --keep rank:k=2 --min-side 0 --report r.md --plan p.json --verbose"


@attack("GGUF: names of markup and control characters", code=0)
def _gguf_names(folder: Path) -> str:
    name = "\x1b[2J\x1b]0;x\x07\n\r<script>{{7*7}}\u202e"
    rows = bytes(4 * 40 * 30)
    tensors = {f"{name}{i}.weight": ((40, 30), F32, rows) for i in range(2)}
    (folder / "a.gguf").write_bytes(gguf(tensors))
    return "analyze a.gguf --min-side 0 --report r.md --verbose"


@attack("GGUF: an array of 2^60 texts")
def _gguf_array(folder: Path) -> str:
    texts = struct.pack("<IQ", 8, 2**60) + bytes(4096)
    (folder / "a.gguf").write_bytes(MAGIC + struct.pack("<QQ", 0, 1) + entry("a", 9, texts))
    return "analyze a.gguf"
