"""Heal a network in few bits block by block, with the rounding in the loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rmtcli.calibration import Calibration, Folder
from rmtcli.checkpoint import Edited, decode
from rmtcli.checkpoint.packing import Packed
from rmtcli.checkpoint.spill import Spill, Stored
from rmtcli.errors import EvaluationError
from rmtcli.evaluation import Harness
from rmtcli.evaluation.outline import Outline, blocks_of
from rmtcli.running.grids import Grids
from rmtcli.running.heal_blocks import Descent, heal_blocks
from rmtcli.running.heal_rounded import applied, packed_of, stored_of, with_vectors
from rmtcli.running.parameters import NewParameters


def heal_rounded_in_parts(
    harness: Harness, network: Edited, settings: Calibration, folder: Folder
) -> Edited | None:
    """Train the values of one block in few bits after another to reproduce the dense blocks.

    What is trained in a block is what :func:`~rmtcli.running.heal_rounded.heal_rounded` trains in
    the whole network; what is outside of blocks stays, and so do tables and what several blocks
    share.

    Args:
        harness: the dense network, and how networks are fed.
        network: the network, with packed tensors among its edits.
        settings: the inputs, and how long to train.
        folder: takes the states.

    Returns:
        The network with other codes and vectors; None if it is further from the dense network, on
        inputs held out, than it was.

    Raises:
        NotInPartsError: the network cannot be run block by block.
    """
    trained = _RoundedBlocks(harness, with_vectors(network))
    helped = heal_blocks(harness, trained, settings, folder)
    for outline in trained.outlines:
        outline.close()
    return trained.network if helped else None


class _RoundedBlocks:
    """What is trained in each block of a network in few bits.

    Args:
        harness: the dense network.
        network: the compressed one; its vectors are among its edits.

    Attributes:
        outlines: both networks, as what reads their matrices.
    """

    def __init__(self, harness: Harness, network: Edited) -> None:
        task, device = harness.task, harness.evaluation.device
        self.outlines = Outline(harness.checkpoint, task, device), Outline(network, task, device)
        dense, pruned = (outline.model for outline in self.outlines)
        self._network, self._new = network, dict[str, Stored]()
        self._parameters = NewParameters(dense, pruned, network)
        self._spill = Spill()
        for outline in self.outlines:
            outline.block_by_block()
        blocks = [name for names in blocks_of(pruned).values() for name in names]
        own = {name: set(_trained(pruned.get_submodule(name))) for name in blocks}
        uses = Counter(p for parameters in own.values() for p in parameters)
        names = self._parameters.by_name
        self._inside = {
            block: {n: p for n, p in names.items() if p in own[block] and uses[p] == 1}
            for block in blocks
        }

    @property
    def network(self) -> Edited:
        """The network with what was trained."""
        return applied(self._network, self._new)

    def has(self, block: str) -> bool:
        """Whether a matrix in few bits is trained with a block."""
        return any(self._network.packed(name) is not None for name in self._inside[block])

    def train(self, block: str, descent: Descent) -> None:
        """Train the matrices and vectors of a block, and store them.

        Raises:
            EvaluationError: there are values that are not finite.
        """
        parameters = self._inside[block]
        trained = self._parameters.scaled(parameters.values())
        grids = Grids(packed_of(parameters, self._network))
        for p, _ in trained:
            p.requires_grad_(True)
        descent(trained, grids.attach)
        for p, _ in trained:
            p.requires_grad_(False)
            p.grad = None
        if not grids.finite or not all(bool(p.isfinite().all()) for p, _ in trained):
            raise EvaluationError(f"the values of '{block}' are not finite")
        self._store(stored_of(parameters, self._network, grids))

    def _store(self, new: Mapping[str, Stored]) -> None:
        """Keep new tensors on the disk, from where the compressed network reads its matrices."""
        kept = {tensor: self._kept(tensor) for tensor in dict.fromkeys(new.values())}
        for name, tensor in new.items():
            self._new[name] = kept[tensor]
            if len(tensor.shape) > 1:
                self.outlines[1].replace(name, partial(_values, kept[tensor]))

    def _kept(self, tensor: Stored) -> Stored:
        if isinstance(tensor, Packed):
            return replace(tensor, codes=self._spill.keep(tensor.codes.read()))
        return self._spill.keep(tensor.read())


def _values(tensor: Stored) -> NDArray[np.floating]:
    return decode(tensor.read())


def _trained(block: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters of a block, except tables."""
    for module in block.modules():
        if not isinstance(module, nn.Embedding):
            yield from module.parameters(recurse=False)
