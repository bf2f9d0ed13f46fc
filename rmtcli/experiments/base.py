"""What an experiment consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One way of training, run once a seed.

    Attributes:
        title: what stands in the table.
        sizes: widths of the network, inputs and outputs included.
        epochs: passes over the training images.
        lr: learning rate of SGD with momentum 0.9.
        decay: what the learning rate is multiplied by after every ``decay_every`` epochs.
        decay_every: epochs between two decays.
        prune: options of :class:`~rmtcli.training.RMTPruner`, called before each epoch; None for
            a network that is not pruned.
        magnitude_like: title of the row whose final size is reached by magnitude pruning, at the
            time when that row's pruner starts; None for none.
        ranks: the trained network is truncated to each of these ranks in turn, and to its edge
            rank; what is reported are those networks.
        dropout: share of the hidden values that are dropped in training.
        l1: weight of Σ|w|.
        l2: weight of Σw².
        relu_logits: whether a ReLU follows the last layer.
        noise: share of the training labels that are replaced by another class, drawn at random.
        published: test accuracy that was published, in percent.
    """

    title: str
    sizes: tuple[int, ...]
    epochs: int
    lr: float
    decay: float = 1.0
    decay_every: int = 1
    prune: Mapping[str, Any] | None = None
    magnitude_like: str | None = None
    ranks: tuple[int, ...] = ()
    dropout: float = 0.0
    l1: float = 0.0
    l2: float = 0.0
    relu_logits: bool = False
    noise: float = 0.0
    published: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of one row with one seed.

    Attributes:
        test: accuracy on the test images, in percent.
        train: accuracy on the training images and the labels trained with, in percent.
        parameters: of the network; those that are not zero after magnitude pruning.
        dense: parameters of the network that training began with.
        ranks: rank of each pruned layer.
        curve: test accuracy after each epoch, in percent.
    """

    test: float
    train: float
    parameters: int
    dense: int
    ranks: Mapping[str, int] = field(default_factory=dict)
    curve: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Experiment:
    """Rows that are compared with one another.

    Attributes:
        name: what it is called.
        source: paper and section.
        rows: ways of training; the first of each ``noise`` is the network that is not pruned.
        published: published accuracies of truncated networks, by their titles.
    """

    name: str
    source: str
    rows: tuple[Row, ...]
    published: Mapping[str, str] = field(default_factory=dict)

    def reference(self, title: str) -> str:
        """Title of the row that another one is compared with."""
        row = next((row for row in self.rows if row.title == title), self.rows[0])
        return next(other.title for other in self.rows if other.noise == row.noise)
