"""Whether a graph is a plain chain of linear layers, with one activation between them."""

from __future__ import annotations

from onnx import NodeProto

from rmtcli.checkpoint.onnx.network import Network, attribute, integer, is_a

_ACTIVATIONS = {"Relu": "relu", "Gelu": "gelu", "Tanh": "tanh", "Sigmoid": "sigmoid"}
#: The end of the name of a pivoted layer's pivot rows.
_PIVOT = ".pivot.weight"


def activation_of(network: Network, pairs: frozenset[str]) -> str:
    """The activation between the layers of a plain chain; empty for any other graph.

    A chain has one input, which is flattened, and one output, to which softmax may be applied.

    Args:
        network: the graph.
        pairs: names of weights that are the first of two factors.
    """
    steps = _steps(network)
    if steps is None:
        return ""
    gaps, last = set[str](), None
    between = "identity"
    for step in steps:
        if step in _ACTIVATIONS.values():
            if between != "identity" or last is None or last in pairs:
                return ""
            between = step
        else:
            if last is not None and last not in pairs:
                gaps.add(between)
            between, last = "identity", step
    if between != "identity" or last is None or len(gaps) > 1:
        return ""
    return gaps.pop() if gaps else "relu"


def _steps(network: Network) -> list[str] | None:
    """Names of weights and activations in the order of a chain; None for any other graph."""
    graph, weights = network.graph, {x: name for name, x in _single(network).items()}
    inputs = [value.name for value in graph.input if value.name not in network.tensors]
    if len(inputs) != 1 or len(graph.output) != 1:
        return None
    value, end, steps = inputs[0], graph.output[0].name, list[str]()
    for _ in network.nodes:
        value = _after_pivots(network, value, steps) or value
        readers = network.readers.get(value, [])
        if len(readers) != 1 or value in network.closed:
            break
        number = readers[0][0]
        node = network.nodes[number]
        if number in weights:
            steps.append(weights[number])
        elif node.op_type in _ACTIVATIONS and _is_plain(node):
            steps.append(_ACTIVATIONS[node.op_type])
        elif not _changes_nothing(network, node, steps, weights, value):
            return None
        value = node.output[0]
    return steps if value == end else None


def _after_pivots(network: Network, value: str, steps: list[str]) -> str | None:
    """The outputs of a pivoted layer, given those of its pivot rows; None for any other value."""
    if not steps or not steps[-1].endswith(_PIVOT):
        return None
    unit = steps[-1].removesuffix(_PIVOT)
    rest, order = (network.names.get(f"{unit}{part}") for part in (".rest.weight", ".order"))
    numbers = [number for number, _ in network.readers.get(value, ())]
    last = [node for number in numbers if is_a(node := network.nodes[number], "Concat")]
    gather = network.after(last[0].output[0]) if len(numbers) == 2 and len(last) == 1 else None
    if gather is None or not is_a(gather, "Gather") or rest is None:
        return None
    both = [
        value,
        *(x for n in numbers if rest in network.nodes[n].input for x in network.nodes[n].output),
    ]
    return gather.output[0] if list(last[0].input) == both and order in gather.input else None


def _single(network: Network) -> dict[str, int]:
    """The node of each layer's weight; none if a weight has two, or adds what is no bias."""
    single = {}
    for name, linear in network.linears.items():
        node = network.nodes[linear.nodes[0]]
        other = len(node.input) > 2 and node.input[2] != (linear.bias or "")
        if len(linear.nodes) == 1 and not other:
            single[name] = linear.nodes[0]
    return single


def _is_plain(node: NodeProto) -> bool:
    approximate = attribute(node, "approximate")
    return is_a(node, node.op_type) and (approximate is None or approximate.s in (b"", b"none"))


def _changes_nothing(
    network: Network, node: NodeProto, steps: list[str], weights: dict[int, str], value: str
) -> bool:
    """Whether a node adds the bias of the layer before it, flattens the input, or is a softmax."""
    if is_a(node, "Add"):
        before = weights.get(network.makers.get(value, -1))
        bias = None if before is None else network.linears[before].bias
        if before is None and steps and steps[-1].endswith(_PIVOT):
            bias = network.names.get(f"{steps[-1].removesuffix(_PIVOT)}.bias")
        return bias is not None and bias in node.input
    if is_a(node, "Identity"):
        return True
    if is_a(node, "Flatten"):
        return not steps and integer(node, "axis", 1) == 1
    after = network.readers.get(node.output[0], [])
    softmax = is_a(node, "Softmax") or is_a(node, "LogSoftmax")
    return softmax and not after and integer(node, "axis", -1) in (1, -1)
