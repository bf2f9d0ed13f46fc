"""Torch modules in the place of look-up tables, and of output heads that are tied to one."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

#: A table of few columns and the linear map from these: the factors of a look-up table.
Maps = tuple[nn.Embedding, nn.Linear]


class SplitTable(nn.Sequential):
    """A table of few columns and a linear map, in place of an ``nn.Embedding``.

    Args:
        table: the dense table.
        maps: the factors.
    """

    def __init__(self, table: nn.Embedding, maps: Maps) -> None:
        super().__init__(*maps)
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.padding_idx = table.padding_idx
        self.train(table.training)

    @property
    def right(self) -> nn.Embedding:
        """The table of few columns."""
        return cast(nn.Embedding, self[0])

    @property
    def left(self) -> nn.Linear:
        """The linear map."""
        return cast(nn.Linear, self[1])

    @property
    def weight(self) -> Tensor:
        """The whole table, computed at each access."""
        return self.right.weight @ self.left.weight.T


class SplitHead(nn.Module):
    """An output head that is tied to a table: it multiplies by both factors in turn.

    Its parameters have the names and shapes of the table's, and are the same tensors.

    Args:
        head: the dense head.
        maps: the factors.
    """

    def __init__(self, head: nn.Linear, maps: Maps) -> None:
        super().__init__()
        self.add_module("0", maps[0])
        self.add_module("1", maps[1])
        self.bias = head.bias
        self.in_features, self.out_features = head.in_features, head.out_features
        self.train(head.training)

    def forward(self, inputs: Tensor) -> Tensor:
        """The scores of all rows of the table."""
        few = nn.functional.linear(inputs, self.left.weight.T)
        return nn.functional.linear(few, self.right.weight, self.bias)

    @property
    def right(self) -> nn.Embedding:
        """The table of few columns."""
        return cast(nn.Embedding, self.get_submodule("0"))

    @property
    def left(self) -> nn.Linear:
        """The linear map from these columns to the table's."""
        return cast(nn.Linear, self.get_submodule("1"))

    @property
    def weight(self) -> Tensor:
        """The whole table, computed at each access."""
        return self.right.weight @ self.left.weight.T


def split_table(module: nn.Module, rank: int) -> nn.Module | None:
    """The module in place of a table, or of a head that holds one; None for any other module."""
    if not (is_table(module) or is_head(module)):
        return None
    weight = cast(Tensor, module.weight)
    options: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    padding, sparse = getattr(module, "padding_idx", None), getattr(module, "sparse", False)
    table = nn.Embedding(len(weight), rank, padding, sparse=sparse, **options)
    return with_maps(module, (table, nn.Linear(rank, weight.shape[1], bias=False, **options)))


def with_maps(module: nn.Module, maps: Maps) -> nn.Module | None:
    """The module of these factors in place of a table or head; None for any other module."""
    if is_table(module):
        return SplitTable(cast(nn.Embedding, module), maps)
    return SplitHead(cast(nn.Linear, module), maps) if is_head(module) else None


def maps_of(module: nn.Module) -> Maps | None:
    """The factors of a split table or head; None for any other module."""
    return (module.right, module.left) if isinstance(module, SplitTable | SplitHead) else None


def is_table(module: nn.Module) -> bool:
    """Whether a module is an embedding that looks rows up and does nothing else."""
    if not isinstance(module, nn.Embedding) or module.max_norm is not None:
        return False
    return type(module).forward is nn.Embedding.forward and not module.scale_grad_by_freq


def is_head(module: nn.Module) -> bool:
    """Whether a module is a linear layer that multiplies and does nothing else."""
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
