"""The linear layers in an ONNX graph, and the names of its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.checkpoint.names import bias_of
from rmtcli.checkpoint.onnx.tensors import DTYPES

#: The domain of ONNX's own operators, by both of its names.
OWN = ("", "ai.onnx")


@dataclass(slots=True)
class Linear:
    """A matrix by which nodes of a graph multiply, and which nothing else reads.

    Attributes:
        tensor: its name in the graph.
        in_out: whether it is stored as in × out.
        nodes: numbers of the MatMul and Gemm nodes that multiply by it.
        passed: numbers of the nodes between it and these, which copy or transpose it.
        bias: name, in the graph, of the vector that is added to the outputs and to nothing else.
    """

    tensor: str
    in_out: bool = False
    nodes: list[int] = field(default_factory=list)
    passed: list[int] = field(default_factory=list)
    bias: str | None = None


class Network:
    """A graph, its linear layers, and the names that its tensors have in a checkpoint.

    Attributes:
        model: the file, without the initialisers of its graph.
        graph: its graph.
        initializers: the initialisers of the graph.
        nodes: the nodes of the graph, in their order.
        readers: for each value, the numbers of the nodes that read it, and of their inputs.
        makers: for each value, the number of the node that makes it.
        closed: values that are read elsewhere too: by graphs inside of nodes, or as outputs.
        tensors: initialisers, and values of Constant nodes, by their names in the graph.
        linears: the linear layers by the names of their weights, in the order of their nodes.
        names: for each name in a checkpoint, the name in the graph; in the order of use.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model, self.graph = model, model.graph
        self.nodes = list(model.graph.node)
        self.readers: dict[str, list[tuple[int, int]]] = {}
        self.makers: dict[str, int] = {}
        self.closed = {value.name for value in self.graph.output} | set(_inner(self.graph))
        self.initializers = list(self.graph.initializer)  # copies of the model are small without
        del self.graph.initializer[:]
        self.tensors: dict[str, TensorProto] = {x.name: x for x in self.initializers}
        for number, node in enumerate(self.nodes):
            for i, name in enumerate(node.input):
                self.readers.setdefault(name, []).append((number, i))
            self.makers |= dict.fromkeys(node.output, number)
            value = attribute(node, "value") if is_a(node, "Constant") else None
            if value is not None and value.HasField("t"):
                self.tensors.setdefault(node.output[0], value.t)
        linears = sorted(self._linears(), key=lambda linear: linear.nodes[0])
        self.linears, self.names = self._named(linears)

    @property
    def values(self) -> set[str]:
        """All names of values and tensors in the graph."""
        inputs = {value.name for value in self.graph.input}
        return inputs | self.readers.keys() | self.makers.keys() | self.tensors.keys()

    def _linears(self) -> Iterator[Linear]:
        for name, tensor in self.tensors.items():
            if len(tensor.dims) == 2 and DTYPES.get(tensor.data_type) in FLOATS:
                linear = self._linear(name)
                if linear is not None:
                    yield linear

    def _linear(self, name: str) -> Linear | None:
        """The layer of a matrix; None if something else reads it, or not always the same way."""
        linear, directions = Linear(name), set[bool]()
        pending, seen = [(name, False)], set[str]()
        while pending:
            value, flipped = pending.pop()
            if value in self.closed or value not in self.readers or value in seen:
                return None
            seen.add(value)
            for number, i in self.readers[value]:
                node = self.nodes[number]
                if is_a(node, "Identity") or _is_transpose(node):
                    linear.passed.append(number)
                    pending.append((node.output[0], flipped != _is_transpose(node)))
                elif i == 1 and _multiplies(node):
                    linear.nodes.append(number)
                    directions.add(flipped == bool(integer(node, "transB")))
                else:
                    return None
        if len(directions) != 1:
            return None
        linear.in_out = directions.pop()
        linear.nodes.sort()
        linear.bias = self._bias(linear)
        return linear

    def _bias(self, linear: Linear) -> str | None:
        """The vector that is added to a layer's outputs, if nothing else reads it."""
        if len(linear.nodes) != 1:
            return None
        node, outputs = self.nodes[linear.nodes[0]], self._sides(linear)[0]
        if node.op_type == "Gemm":
            names: list[str] = list(node.input[2:3])
        else:
            after = self.after(node.output[0])
            names = list(after.input) if after is not None and is_a(after, "Add") else []
        for name in names:
            tensor = self.tensors.get(name)
            own = tensor is not None and tuple(tensor.dims) == (outputs,)
            if own and len(self.readers[name]) == 1 and name not in self.closed:
                return name
        return None

    def _sides(self, linear: Linear) -> tuple[int, int]:
        """Outputs and inputs of a layer."""
        rows, columns = self.tensors[linear.tensor].dims
        return (columns, rows) if linear.in_out else (rows, columns)

    def after(self, value: str) -> NodeProto | None:
        """The node that alone reads a value; None if there is another, or none."""
        readers = self.readers.get(value, [])
        alone = len(readers) == 1 and value not in self.closed
        return self.nodes[readers[0][0]] if alone else None

    def _named(self, linears: list[Linear]) -> tuple[dict[str, Linear], dict[str, str]]:
        """The layers by the names of their weights, and the name in the graph of each tensor.

        torch's exporters keep the names of biases, and rename weights that they transpose. Such a
        weight is named after its bias, or else after its node, whose name has that of the module.
        """
        taken, given = self.values, dict[str, str]()

        def give(name: str, *choices: str) -> str:
            free = (x for x in choices if x == name or (x not in taken and x not in given))
            choice = next(free, name)
            given[choice] = name
            return choice

        named = dict[str, Linear]()
        first = dict[str, int]()
        for linear in linears:
            node = self.nodes[linear.nodes[0]]
            weight = give(linear.tensor, *_choices(linear, node))
            named[weight] = linear
            first[linear.tensor] = linear.nodes[0]
            if linear.bias is not None:
                give(linear.bias, bias_of(weight))
        own = dict.fromkeys([*given.values(), *(x.name for x in self.initializers)])
        back = {name: new for new, name in given.items()}
        last = [(len(self.nodes), 0)]
        order = {x: first.get(x, self.readers.get(x, last)[0][0]) for x in own}
        return named, {back.get(x, x): x for x in sorted(own, key=order.__getitem__)}


def is_a(node: NodeProto, kind: str) -> bool:
    """Whether a node is a certain one of ONNX's own operators, with an output."""
    return node.op_type == kind and node.domain in OWN and bool(node.output)


def attribute(node: NodeProto, name: str) -> AttributeProto | None:
    """An attribute of a node; None if it is not given."""
    return next((item for item in node.attribute if item.name == name), None)


def integer(node: NodeProto, name: str, default: int = 0) -> int:
    """An attribute of a node that is a whole number."""
    item = attribute(node, name)
    return default if item is None else item.i


def _choices(linear: Linear, node: NodeProto) -> Iterator[str]:
    """Names for a weight, the best first."""
    if linear.tensor.rpartition(".")[2] == "weight":
        yield linear.tensor
    bias = linear.bias or ""
    if bias.rpartition(".")[2] == "bias":
        yield f"{bias.removesuffix('bias')}weight"
    module = node.name.strip("/").rpartition("/")[0].replace("/", ".")
    if module and node.name.startswith("/"):
        yield f"{module}.weight"
    yield f"{linear.tensor}.weight"


def _is_transpose(node: NodeProto) -> bool:
    """Whether a node transposes matrices."""
    item = attribute(node, "perm")
    return is_a(node, "Transpose") and (item is None or list(item.ints) == [1, 0])


def _multiplies(node: NodeProto) -> bool:
    """Whether a node multiplies its first input by its second one, and adds no more than a bias."""
    if is_a(node, "MatMul"):
        return True
    scales = (attribute(node, name) for name in ("alpha", "beta"))
    plain = all(item is None or item.f == 1 for item in scales)
    return is_a(node, "Gemm") and plain and not integer(node, "transA")


def _inner(graph: GraphProto) -> Iterator[str]:
    """Names that the graphs inside of a graph's nodes read."""
    for node in graph.node:
        for item in node.attribute:
            for inner in (*item.graphs, *([item.g] if item.HasField("g") else ())):
                for each in inner.node:
                    yield from each.input
                yield from (value.name for value in inner.output)
                yield from _inner(inner)
