"""Fit the noise of every layer, without writing anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rmtcli.checkpoint import Openable
from rmtcli.computing import connected, device_of
from rmtcli.edges import EDGES
from rmtcli.errors import UsageError
from rmtcli.keep import Untouched
from rmtcli.layers import Layer, Selection, Skipped
from rmtcli.layouts import Factored
from rmtcli.options import option
from rmtcli.pipeline.contents import tensors_of, with_plans
from rmtcli.pipeline.fits import Fitter, Track, fit_layers
from rmtcli.pipeline.opened import opened
from rmtcli.pipeline.solvers import decomposer_for
from rmtcli.pipeline.stages import Method, describe, layers_of, on_tensors, plan_layers
from rmtcli.pipeline.timing import check_batches, time_layers
from rmtcli.planning import by_rule
from rmtcli.report.base import Report
from rmtcli.report.notes import on_trying


def analyze(
    model: Openable,
    *,
    key: str | None = None,
    edge: str = "select",
    selection: Selection | None = None,
    cache: str | Path | None = None,
    executor: str | None = None,
    batches: Sequence[int] = (),
    device: str = "cpu",
    track: Track = iter,
) -> Report:
    """Fit the noise of every fully connected layer; nothing is written.

    The report also says for each layer what ``prune`` with ``keep="auto"`` would do. Of an adapter,
    the matrix of a layer is its change on the inputs that it reads, of out × r.

    A module is not changed, and its weights are not copied.

    Args:
        model: a torch module, a state dict, or the path of a file, Hugging Face directory or LoRA
            adapter.
        key: which state dict, where a torch file holds several, such as ``ema`` or
            ``state.generator``.
        edge: edge estimator with options, such as ``"bema:alpha=0.25"``.
        selection: which matrices are layers.
        cache: folder in which decompositions are kept and looked up; none by default.
        executor: ``dask://host:port`` of a cluster that fits the layers; it must reach the
            checkpoint and the cache under the same paths.
        batches: numbers of rows at which each linear layer's forward pass is timed, dense and as
            ``auto`` would prune it.
        device: where layers are timed and decomposed, or ``auto``; MPS has no float64, so that
            layers are decomposed on the processor there.
        track: wraps the iteration over layers, for progress.

    Raises:
        UsageError: a wrong option or path.
        CheckpointError: the file cannot be read.
        LayerError: it holds no fully connected layers.
        ClusterError: the cluster was lost.
    """
    check_batches(batches)
    device = device_of(device)
    checkpoint, adapter = opened(model, key)
    if adapter is not None and batches:
        raise UsageError(f"{option('batch')} times the layers of a network, not of an adapter")
    method = Method.spelled(edge, "auto", Factored())
    source, choose = describe(checkpoint), by_rule("auto")
    items: Sequence[Layer | Skipped]
    if adapter is None:
        items = layers_of(checkpoint, selection)
    else:
        from rmtcli.pipeline.adapter_layers import changes_of

        source = replace(source, path=str(adapter.path))
        items, choose = changes_of(adapter, selection), lambda item: Untouched.ADAPTER
    with connected(executor) as cluster:
        fitter = Fitter(EDGES.parse(edge), vectors=True, decomposer=decomposer_for(device, cache))
        fits = fit_layers(items, fitter, cluster=cluster, track=track)
        planned = plan_layers(checkpoint, fits, choose, lambda item: method.layout)
    return Report(
        "analyze",
        source,
        edge=method.edge,
        keep=method.keep,
        layout=method.layout,
        layers=planned.layers,
        skipped=planned.skipped,
        latency=time_layers(planned.layers, batches, device),
        tensors=with_plans(tensors_of(checkpoint, checkpoint), planned.pruned),
        notes=(
            *checkpoint.remarks,
            *on_tensors(checkpoint, planned),
            *on_trying(checkpoint, planned.pruned),
        ),
    )
