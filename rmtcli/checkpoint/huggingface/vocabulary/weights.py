"""The tensors of a network without the rows of the tokens that go."""

from __future__ import annotations

from math import prod

import numpy as np

from rmtcli.checkpoint.base import Checkpoint
from rmtcli.checkpoint.dtypes import RawTensor
from rmtcli.checkpoint.edited import Edited
from rmtcli.checkpoint.huggingface.vocabulary.cut import Cut
from rmtcli.checkpoint.spill import Spill, Stored
from rmtcli.errors import UsageError
from rmtcli.options import option


def without_rows(checkpoint: Checkpoint, cut: Cut) -> Edited:
    """A checkpoint whose tables, output heads and their biases have the kept tokens only.

    Names that share a tensor go on sharing one.

    Raises:
        UsageError: no tensor has a row for each token, or one has two sides of that size.
    """
    spill, made = Spill(), dict[str, Stored]()
    edits: dict[str, dict[str, Stored]] = {}
    for name, info in checkpoint.infos.items():
        if cut.rows not in info.shape:
            continue
        if info.shape.count(cut.rows) > 1:
            raise UsageError(
                f"{checkpoint.path}: {name} has several sides of {cut.rows}, and "
                f"{option('vocab')} cannot tell which is that of the tokens"
            )
        first = checkpoint.aliases.get(name, name)
        if first not in made:
            made[first] = spill.keep(_taken(checkpoint.raw(first), cut))
        edits[name] = {name: made[first]}
    if not edits:
        raise UsageError(
            f"{checkpoint.path}: no tensor has {cut.rows} rows, the 'vocab_size' of config.json"
        )
    return Edited(checkpoint, edits, checkpoint.manifest)


def _taken(raw: RawTensor, cut: Cut) -> RawTensor:
    """The kept entries of a tensor along the side of the tokens, in its own bytes."""
    axis = raw.shape.index(cut.rows)
    data = raw.data.reshape(prod(raw.shape[:axis]), cut.rows, -1)
    kept = np.ascontiguousarray(data[:, list(cut.kept)])
    shape = (*raw.shape[:axis], len(cut.kept), *raw.shape[axis + 1 :])
    return RawTensor(raw.dtype, shape, kept.reshape(-1))
