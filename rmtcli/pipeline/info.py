"""Contents and origin of a checkpoint."""

from __future__ import annotations

from collections import Counter

from rmtcli.adapters import Adapter
from rmtcli.checkpoint import Openable
from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.checkpoint.huggingface.read import HuggingFaceDirectory
from rmtcli.pipeline.opened import opened
from rmtcli.pipeline.stages import describe
from rmtcli.report.info import AdapterFigures, Info


def info(model: Openable, *, key: str | None = None) -> Info:
    """Describe a checkpoint without decomposing a weight.

    Args:
        model: the path of a file or Hugging Face directory, a torch module, or a state dict.
        key: which state dict, where a torch file holds several, such as ``ema`` or
            ``state.generator``.

    Raises:
        UsageError: a wrong path.
        CheckpointError: it cannot be read.
    """
    checkpoint, adapter = opened(model, key)
    types = Counter(tensor.dtype for tensor in checkpoint.infos.values())
    model_type = None
    if isinstance(checkpoint, HuggingFaceDirectory) and "model_type" in checkpoint.config:
        model_type = str(checkpoint.config["model_type"])
    return Info(
        describe(checkpoint),
        checkpoint.form if adapter is None else f"LoRA adapter ({adapter.style})",
        tuple(file.name for file in checkpoint.weights),
        {TYPES[name].word: count for name, count in types.most_common()},
        model_type,
        checkpoint.manifest,
        checkpoint.remarks,
        None if adapter is None else _figures(adapter),
    )


def _figures(adapter: Adapter) -> AdapterFigures:
    ranks = [layer.rank for layer in adapter.layers]
    return AdapterFigures(
        adapter.style.value,
        adapter.base,
        len(adapter.layers),
        (min(ranks), max(ranks)),
        len(adapter.saved),
        adapter.dora,
    )
