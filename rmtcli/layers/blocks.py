"""Blocks: hidden layers whose units only a few layers write and read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Block:
    """The layers around one hidden layer: each unit is computed and read on its own.

    A unit can be left out of the network together with its rows, columns and entries of these
    tensors, and nothing else changes.

    The units of attention heads are another kind: a head's queries and keys are both written and
    meet in products, its values are mixed over positions before they are read, and every head has
    the same number of units.

    Attributes:
        units: width of the hidden layer; of attention, units of each head.
        writers: names of the layers whose outputs are the units before the activation. A gated
            block has two.
        readers: names of the layers whose inputs are the units.
        vectors: names of other tensors with one value per unit, such as those of a BatchNorm. The
            writers' biases are not among them.
        heads: number of attention heads; 0 for a hidden layer without any.
    """

    units: int
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    vectors: tuple[str, ...] = ()
    heads: int = 0

    def sides(self, width: int) -> int:
        """Rows of the writers and columns of the readers at a width."""
        return width * max(1, self.heads)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the writers and readers."""
        return (*self.writers, *self.readers)
