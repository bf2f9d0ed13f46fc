"""Writing a network back into the ONNX graph that it was read from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeAlias

from google.protobuf.message import EncodeError
from onnx import ModelProto, TensorProto, external_data_helper

from rmtcli.checkpoint.base import Checkpoint
from rmtcli.checkpoint.dtypes import RawTensor
from rmtcli.checkpoint.edited import Edited
from rmtcli.checkpoint.onnx.file import MANIFEST_KEY, parsed
from rmtcli.checkpoint.onnx.network import Network
from rmtcli.checkpoint.onnx.rewrite import Rewriter
from rmtcli.checkpoint.onnx.tensors import external, is_external, made, transposed
from rmtcli.errors import CheckpointError, UsageError
from rmtcli.files import is_remote
from rmtcli.files.atomic import staged_file, write_file

#: Puts the bytes of a finished tensor where the file keeps them.
_Keep: TypeAlias = Callable[[TensorProto], TensorProto]
#: Tensors of fewer bytes stay in the graph, also where others are in a file beside it.
_SMALL = 1024
#: Tensors in a file begin at multiples of so many bytes, so that they can be mapped into memory.
_PAGE = 4096
#: The first version of ONNX's files in which initialisers are no inputs.
_NO_INPUTS = 4


@contextmanager
def staged_onnx(checkpoint: Checkpoint, target: Path, *, force: bool) -> Iterator[Path]:
    """Write an ONNX file under a temporary name, and give it ``target``'s on leaving the block.

    External data stay external. Their file is written first, under a name that no graph has, so
    that a graph never names data that are not complete.

    Args:
        checkpoint: a network that was read from an ONNX file, or changes laid over it.
        target: the path or URL.
        force: whether a file that exists by then may be replaced.

    Yields:
        The path of the temporary file.

    Raises:
        UsageError: external data at a URL; or the output exists by then.
        CheckpointError: the graph has no place for a tensor.
    """
    network: Network = checkpoint.graph
    if not any(map(is_external, network.initializers)):
        model = _changed(checkpoint, lambda tensor: tensor)
        with staged_file(
            target, lambda file: file.write(_bytes(model, target)), force=force
        ) as path:
            yield path
        return
    if is_remote(target):
        raise UsageError(f"{target}: a graph with external data is not written to a URL")
    old, data = _own_data(target), _free(target)
    models: list[ModelProto] = []

    def fill(file: BinaryIO) -> None:
        models.append(_changed(checkpoint, lambda tensor: _outside(tensor, file, data.name)))

    write_file(data, fill, force=False)
    try:
        graph = _bytes(models[0], target)
        with staged_file(target, lambda file: file.write(graph), force=force) as path:
            yield path
    except BaseException:
        data.unlink(missing_ok=True)
        raise
    for file in old:
        file.unlink(missing_ok=True)


def _changed(checkpoint: Checkpoint, keep: _Keep) -> ModelProto:
    """The model with the tensors, and the record, of a checkpoint."""
    network: Network = checkpoint.graph
    hidden = network.names.keys() & {*checkpoint.opaque}
    rewriter = Rewriter(network, checkpoint.infos.keys() | hidden, checkpoint.path)
    model = ModelProto()
    model.CopyFrom(network.model)
    graph = model.graph
    del graph.node[:]
    graph.node.extend(rewriter.nodes())
    for tensor in _tensors(checkpoint, network, rewriter):
        graph.initializer.append(keep(tensor))
    _tidy(model, network)
    others = [item for item in network.model.metadata_props if item.key != MANIFEST_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(others)
    if checkpoint.manifest is not None:
        text = checkpoint.manifest.to_json()
        model.metadata_props.add(key=MANIFEST_KEY, value=text)
    return model


def _tensors(checkpoint: Checkpoint, network: Network, rewriter: Rewriter) -> Iterator[TensorProto]:
    """The tensors of the changed graph: those that stay, in their order, and then the new ones."""
    changed, written = _new_values(checkpoint), set[str]()
    for old in dict.fromkeys([*(x.name for x in network.initializers), *network.names.values()]):
        new = rewriter.renamed.get(old)
        if new is None:
            continue
        written.add(new)
        if new in changed:
            linear = network.linears.get(new)
            in_out = linear is not None and linear.in_out
            yield _stored(new, checkpoint.raw(new), in_out=in_out)
        else:
            yield _kept(network.tensors[old], new, checkpoint.path)
    for name in checkpoint.infos:
        if name not in written:
            raw = checkpoint.raw(name)
            yield _stored(name, raw, in_out=len(raw.shape) == 2)


def _new_values(checkpoint: Checkpoint) -> set[str]:
    """Names of the tensors that edits have made."""
    names = set[str]()
    while isinstance(checkpoint, Edited):
        names |= {new for group in checkpoint.edits.values() for new in group}
        checkpoint = checkpoint.source
    return names


def _stored(name: str, raw: RawTensor, *, in_out: bool) -> TensorProto:
    return made(name, transposed(raw) if in_out else raw)


def _kept(tensor: TensorProto, name: str, path: Path) -> TensorProto:
    """A copy of a tensor that stays, with its bytes."""
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    if is_external(tensor):
        copy.raw_data = external(tensor, path).read().tobytes()
        copy.ClearField("data_location")
        del copy.external_data[:]
    return copy


def _outside(tensor: TensorProto, file: BinaryIO, name: str) -> TensorProto:
    """A tensor whose bytes are put into a file; a small one as it is."""
    if len(tensor.raw_data) < _SMALL:
        return tensor
    file.write(bytes(-file.tell() % _PAGE))
    offset, length = file.tell(), len(tensor.raw_data)
    file.write(tensor.raw_data)
    external_data_helper.set_external_data(tensor, name, offset, length)
    tensor.ClearField("raw_data")
    return tensor


def _tidy(model: ModelProto, network: Network) -> None:
    """Remove what is said of values and inputs that no longer are, or have other shapes."""
    graph = model.graph
    now = {x.name: list(x.dims) for x in graph.initializer}
    if any(name in now and now[name] != list(x.dims) for name, x in network.tensors.items()):
        del graph.value_info[:]
    values = {name for node in graph.node for name in (*node.input, *node.output)} | now.keys()
    described = [x for x in graph.value_info if x.name in values]
    inputs = [x for x in graph.input if x.name in now or x.name not in network.tensors]
    if model.ir_version < _NO_INPUTS:
        model.ir_version = _NO_INPUTS
        inputs = [x for x in inputs if x.name not in now]
    for items, kept in ((graph.value_info, described), (graph.input, inputs)):
        if len(kept) < len(items):
            del items[:]
            items.extend(kept)


def _bytes(model: ModelProto, target: Path) -> bytes:
    try:
        return bytes(model.SerializeToString())
    except (EncodeError, ValueError):
        raise CheckpointError(
            f"{target}: a graph of more than 2 GB cannot be one file: save the input with external "
            "data, and prune it again"
        ) from None


def _free(target: Path) -> Path:
    """A name for external data that no file has."""
    names = (f"{target.name}{f'.{i}' if i else ''}.data" for i in range(10_000))
    return next(path for x in names if not (path := target.with_name(x)).exists())


def _own_data(target: Path) -> list[Path]:
    """The files with external data of an output that is replaced, if their names say so."""
    with suppress(CheckpointError, OSError):
        tensors = Network(parsed(target)).initializers
        files = {external(x, target).path for x in tensors if is_external(x)}
        return [x for x in files if x.name.startswith(f"{target.name}.") and x.suffix == ".data"]
    return []
