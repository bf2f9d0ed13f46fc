"""Contents and origin of a checkpoint."""

from __future__ import annotations

from collections import Counter

from rmtcli.checkpoint import Openable, open_checkpoint
from rmtcli.checkpoint.dtypes import TYPES
from rmtcli.checkpoint.huggingface.read import HuggingFaceDirectory
from rmtcli.pipeline.stages import describe
from rmtcli.report.info import Info


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
    checkpoint = open_checkpoint(model, key=key)
    types = Counter(tensor.dtype for tensor in checkpoint.infos.values())
    model_type = None
    if isinstance(checkpoint, HuggingFaceDirectory) and "model_type" in checkpoint.config:
        model_type = str(checkpoint.config["model_type"])
    return Info(
        describe(checkpoint),
        checkpoint.form,
        tuple(file.name for file in checkpoint.weights),
        {TYPES[name].word: count for name, count in types.most_common()},
        model_type,
        checkpoint.manifest,
        checkpoint.remarks,
    )
