"""The nodes of an ONNX graph whose linear layers are split, or joined again."""

from __future__ import annotations

from collections.abc import Collection

from onnx import NodeProto, helper

from rmtcli.checkpoint.names import bias_of, factors_of, pivots_of, unit_of, weight_of
from rmtcli.checkpoint.onnx.network import OWN, Linear, Network, is_a
from rmtcli.errors import CheckpointError
from rmtcli.options import option

#: The first version of ONNX's operators in which an axis may be counted from the last one.
_NEGATIVE_AXES = 11


class Rewriter:
    """The nodes of a graph, with other tensors than it had.

    Args:
        network: the graph before.
        names: names of the tensors after.
        where: the file, for messages.

    Attributes:
        renamed: the new name of each tensor that stays, by its name in the graph before.

    Raises:
        CheckpointError: the graph has no node for one of the tensors.
    """

    def __init__(self, network: Network, names: Collection[str], where: object) -> None:
        self._network, self._where, after = network, where, set(names)
        self._new, self._gone = after - network.names.keys(), network.names.keys() - after
        self.renamed = {old: new for new, old in network.names.items() if new in after}
        self._used = network.values | {node.name for node in network.nodes}
        self._changed: dict[int, list[NodeProto]] = {}
        taken = self._new & network.values
        if taken:
            raise CheckpointError(f"{where}: the name '{min(taken)}' has another meaning in it")
        for name in [x for x in network.linears if x in self._gone]:
            self._split(name)
        for name in sorted(self._new):
            if name == weight_of(unit_of(name)):
                self._join(name)
        if self._new or self._gone:
            name = min(self._new or self._gone)
            raise CheckpointError(f"{where}: its graph has no layer of which '{name}' is a part")

    def nodes(self) -> list[NodeProto]:
        """The nodes; they read the tensors by their new names.

        A constant that a layer reads has become an initialiser.
        """
        result, tensors = [], set(self._network.names.values())
        for number, node in enumerate(self._network.nodes):
            if is_a(node, "Constant") and node.output[0] in tensors:
                continue
            for each in self._changed.get(number, [node]):
                copy = NodeProto()
                copy.CopyFrom(each)
                copy.input[:] = [self.renamed.get(name, name) for name in each.input]
                result.append(copy)
        return result

    def _split(self, name: str) -> None:
        """Put two nodes or more in the place of each one that multiplies by a weight."""
        linear, unit = self._network.linears[name], unit_of(name)
        right, left, bias = factors_of(unit)
        pivots, nodes = pivots_of(unit), self._network.nodes
        if self._new >= {right, left}:
            for number in linear.nodes:
                self._changed[number] = self._factored(nodes[number], right, left)
            self._account(name, right, left)
            self._rename_bias(bias_of(name), bias)
        elif self._new >= set(pivots):
            for number in linear.nodes:
                self._changed[number] = self._pivoted(nodes[number], *pivots)
            self._account(name, *pivots)
        else:
            return
        self._drop(linear.passed)

    def _join(self, name: str) -> None:
        """Put one node in the place of those that multiply by the parts of a weight."""
        unit, linears = unit_of(name), self._network.linears
        right, left, bias = factors_of(unit)
        core, rest, order = pivots_of(unit)
        if linears.keys() >= {right, left} and self._gone >= {right, left}:
            self._join_factors(name, linears[right], linears[left])
            self._account(name, right, left)
            self._rename_bias(bias, bias_of(name))
        elif linears.keys() >= {core, rest} and self._gone >= {core, rest, order}:
            self._join_pivots(name, linears[core], linears[rest], order)
            self._account(name, core, rest, order)

    def _join_factors(self, name: str, first: Linear, second: Linear) -> None:
        nodes, network = self._network.nodes, self._network
        for number in second.nodes:
            value = nodes[number].input[0]
            maker = network.makers.get(value)
            if maker not in first.nodes:
                raise self._other_graph(name)
            self._changed[number] = [_multiplying(nodes[number], nodes[maker].input[0], name)]
        values = [nodes[number].output[0] for number in first.nodes]
        readers = {number for x in values for number, _ in network.readers.get(x, ())}
        if not readers <= {*second.nodes} or not network.closed.isdisjoint(values):
            raise self._other_graph(name)
        self._drop([*first.nodes, *first.passed, *second.passed])

    def _join_pivots(self, name: str, core: Linear, rest: Linear, order: str) -> None:
        network = self._network
        for number, _ in network.readers[network.names[order]]:
            gather = network.nodes[number]
            concat = network.makers.get(gather.input[0], number)
            inputs = list(network.nodes[concat].input)
            makers = [network.makers.get(value) for value in inputs]
            matches = is_a(gather, "Gather") and len(makers) == 2
            if not (matches and makers[0] in core.nodes and makers[1] in rest.nodes):
                raise self._other_graph(name)
            first = network.nodes[makers[0] or 0]
            node = helper.make_node("MatMul", [first.input[0], name], gather.output)
            node.name = gather.name
            self._changed[number] = [node]
            self._drop([concat, *core.nodes, *rest.nodes, *core.passed, *rest.passed])

    def _factored(self, node: NodeProto, right: str, left: str) -> list[NodeProto]:
        """Two nodes for one, of which the last adds the bias."""
        inner = self._fresh(f"{node.output[0]}/0")
        first = helper.make_node("MatMul", [node.input[0], right], [inner], inner)
        return [first, _multiplying(node, inner, left)]

    def _pivoted(self, node: NodeProto, core: str, rest: str, order: str) -> list[NodeProto]:
        """The pivot rows' outputs, those of the other rows, and both in their order."""
        versions = [x.version for x in self._network.model.opset_import if x.domain in OWN]
        if max(versions, default=1) < _NEGATIVE_AXES:
            raise CheckpointError(
                f"{self._where}: its operators are of version {max(versions, default=1)}, and "
                f"{option('layout', 'pivoted')} needs {_NEGATIVE_AXES} or newer: use "
                f"{option('layout', 'factored')}"
            )
        names = ("pivot", "rest", "all", "order")
        pivot, others, both, ordered = (self._fresh(f"{node.output[0]}/{x}") for x in names)
        bias = [name for name in node.input[2:3] if name]
        result = ordered if bias else node.output[0]
        made = [
            helper.make_node("MatMul", [node.input[0], core], [pivot], pivot),
            helper.make_node("MatMul", [pivot, rest], [others], others),
            helper.make_node("Concat", [pivot, others], [both], both, axis=-1),
            helper.make_node("Gather", [both, order], [result], ordered, axis=-1),
        ]
        if bias:
            sums = [result, *bias], [node.output[0]]
            made.append(helper.make_node("Add", *sums, node.name))
        return made

    def _rename_bias(self, old: str, new: str) -> None:
        """Rename a bias whose layer was split or joined, if it has one."""
        if old in self._gone and new in self._new:
            self.renamed[self._network.names[old]] = new
            self._account(old, new)

    def _account(self, *names: str) -> None:
        self._new -= {*names}
        self._gone -= {*names}

    def _drop(self, numbers: Collection[int]) -> None:
        self._changed |= {number: [] for number in numbers}

    def _fresh(self, name: str) -> str:
        """A name for a node and its output that no other one has."""
        while name in self._used:
            name += "_"
        self._used.add(name)
        return name

    def _other_graph(self, name: str) -> CheckpointError:
        return CheckpointError(
            f"{self._where}: the parts of '{name}' do not follow one another in its graph: it was "
            "changed after rmtcli wrote it"
        )


def _multiplying(node: NodeProto, value: str, weight: str) -> NodeProto:
    """A MatMul or Gemm node that multiplies another value by another weight, stored as in × out."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[0], copy.input[1] = value, weight
    kept = [item for item in node.attribute if item.name != "transB"]
    del copy.attribute[:]
    copy.attribute.extend(kept)
    return copy
