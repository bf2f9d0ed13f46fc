"""ONNX files as checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import ModelProto

from rmtcli.checkpoint.base import About, FileCheckpoint, TensorInfo, stamp_of
from rmtcli.checkpoint.dtypes import FLOATS, RawTensor
from rmtcli.checkpoint.manifest import Manifest
from rmtcli.checkpoint.names import factors_of
from rmtcli.checkpoint.onnx.chain import activation_of
from rmtcli.checkpoint.onnx.network import Network
from rmtcli.checkpoint.onnx.tensors import (
    DTYPES,
    check,
    expected_bytes,
    external,
    is_external,
    stored,
    transposed,
)
from rmtcli.errors import CheckpointError
from rmtcli.files import is_remote

#: Key of the file's metadata under which rmtcli's manifest is stored.
MANIFEST_KEY = "rmtcli"


class OnnxFile(FileCheckpoint):
    """An ONNX file: its initialisers, named and oriented as in a torch module.

    A weight is a matrix by which MatMul and Gemm nodes multiply, and which nothing else reads. It
    is out × in here, however it is stored. The graph is in memory; external data are not.
    """

    form = "ONNX file"
    as_stored = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        model = parsed(path)
        try:
            self.graph = network = Network(model)
            text = {item.key: item.value for item in model.metadata_props}
        except UnicodeDecodeError:
            raise damaged(path) from None
        if not network.nodes and not network.tensors:
            raise CheckpointError(f"{path}: not an ONNX file: it holds no graph")
        self._check(network)
        known = {new: x for new, x in network.names.items() if _type(network, x) in DTYPES}
        self.opaque = tuple(new for new in network.names if new not in known)
        self.opaque += tuple(x.values.name for x in model.graph.sparse_initializer)
        hidden = (network.tensors[network.names[x]] for x in self.opaque if x in network.names)
        self.opaque_bytes = sum(map(expected_bytes, hidden))
        self._weights = {name: x for name, x in network.linears.items() if x.in_out}
        self.infos = {new: self._info(new, name) for new, name in known.items()}
        self.metadata = {key: value for key, value in text.items() if key != MANIFEST_KEY}
        self.manifest = Manifest.from_json(text.get(MANIFEST_KEY, ""))
        self.about = self._about()

    def _check(self, network: Network) -> None:
        """Refuse tensors that are damaged, and remember the files beside the graph."""
        counts = len(network.initializers), len({x.name for x in network.initializers})
        if counts[0] != counts[1]:
            raise CheckpointError(f"{self.path}: damaged: two of its tensors have one name")
        for name in network.names.values():
            tensor = network.tensors[name]
            check(tensor, self.path)
            if is_external(tensor):
                if is_remote(self.path):
                    raise CheckpointError(f"{self.path}: has external data: copy it here first")
                file = external(tensor, self.path).path
                self.stamps.setdefault(file, stamp_of(file))

    def _info(self, new: str, name: str) -> TensorInfo:
        tensor = self.graph.tensors[name]
        shape = tuple(tensor.dims)
        sides = shape[::-1] if new in self._weights else shape
        return TensorInfo(sides, DTYPES[tensor.data_type])

    def _about(self) -> About:
        weights = self.graph.linears
        matrices = {x for x, info in self.infos.items() if len(info.shape) == 2}
        factored = self.manifest.factored if self.manifest else {}
        pairs = frozenset(factors_of(module)[0] for module in factored)
        return About(
            linear_only=True,
            unmultiplied=frozenset(
                x for x in matrices if x not in weights and self.infos[x].dtype in FLOATS
            ),
            activation=activation_of(self.graph, pairs),
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """The graph, and the files with its external data."""
        return tuple(self.stamps)

    def raw(self, name: str) -> RawTensor:
        """The bytes of one tensor, of a weight as out × in."""
        raw = stored(self.graph.tensors[self.graph.names[name]], self.path)
        return transposed(raw) if name in self._weights else raw

    def nbytes(self, name: str) -> int:
        """Bytes of one tensor."""
        return expected_bytes(self.graph.tensors[self.graph.names[name]])

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """None: nodes that share a weight name one tensor."""
        return {}


def _type(network: Network, name: str) -> int:
    return network.tensors[name].data_type


def parsed(path: Path) -> ModelProto:
    """The parsed file; tensors in other files are not read.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        model: ModelProto = ModelProto.FromString(path.read_bytes())
    except (DecodeError, UnicodeDecodeError):
        raise damaged(path) from None
    return model


def damaged(path: Path) -> CheckpointError:
    """The error of a file that is not ONNX, or no longer."""
    return CheckpointError(f"{path}: not a whole ONNX file: export it or download it again")
