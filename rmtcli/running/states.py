"""What is between the blocks of a network that runs block by block: in memory or in files."""

from __future__ import annotations

import torch
from torch import Tensor

from rmtcli.calibration import Folder

#: What a state is, and numbers that tell which one: of its chain, block, batch and others.
Key = tuple[str, *tuple[int, ...]]


class States:
    """Tensors by key: states between blocks, their gradients, and values that blocks share.

    Args:
        folder: where they are kept; None for memory.
    """

    def __init__(self, folder: Folder | None = None) -> None:
        self._folder = folder
        self._kept: dict[Key, Tensor] = {}

    def put(self, key: Key, state: Tensor) -> None:
        """Keep a tensor."""
        if self._folder is None:
            self._kept[key] = state.detach()
        else:
            self._folder.put(_name(key), {"state": state.detach().cpu().numpy()})

    def get(self, key: Key) -> Tensor:
        """The tensor of a key.

        Raises:
            CheckpointError: its file is missing.
        """
        if self._folder is None:
            return self._kept[key]
        return torch.from_numpy(self._folder.read(_name(key))["state"])

    def find(self, key: Key) -> Tensor | None:
        """The tensor of a key; None if there is none."""
        if self._folder is None:
            return self._kept.get(key)
        arrays = self._folder.get(_name(key))
        return None if arrays is None else torch.from_numpy(arrays["state"])

    def drop_under(self, *key: str | int) -> None:
        """Forget the tensors whose keys begin so."""
        if self._folder is not None:
            self._folder.drop_under(f"{_name(key)}-")
        for known in [known for known in self._kept if known[: len(key)] == key]:
            del self._kept[known]

    def drop_between(self, number: int, i: int) -> None:
        """Forget the states before a block, and all gradients there."""
        for kind in ("state", "slope", "shared"):
            self.drop_under(kind, number, i)

    def drop_all(self, number: int) -> None:
        """Forget what the blocks of a chain read and return."""
        for kind in ("state", "slope", "shared", "extra"):
            self.drop_under(kind, number)

    def hand_on(self, number: int, i: int, b: int, left: int, state: Tensor) -> None:
        """Keep the gradient of a state for the block before it."""
        assert state.grad is not None
        self.put(("slope", number, i, b, left), state.grad)
        state.grad = None

    def add_up(self, number: int, i: int, b: int, left: int, shared: tuple[int, Tensor]) -> None:
        """Add the gradient of an argument that several blocks share to that of later blocks."""
        argument, leaf = shared
        before = self.find(("shared", number, i + 1, b, left, argument))
        total = before if leaf.grad is None else leaf.grad + (0 if before is None else before)
        if total is not None:
            self.put(("shared", number, i, b, left, argument), total)
        leaf.grad = None


def _name(key: tuple[str | int, ...]) -> str:
    return "-".join(map(str, key))
