"""The parts of an experiment: its rows, and the outcome of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One way of training, run once per seed.

    Attributes:
        title: title of the row in the table.
        sizes: widths of the network, with its inputs and outputs.
        epochs: number of passes over the training images.
        lr: learning rate of SGD with momentum 0.9.
        decay: factor of the learning rate after every ``decay_every`` epochs.
        decay_every: number of epochs between two decays.
        prune: options of :class:`~rmtcli.training.RMTPruner`, called before each epoch; None for
            a network that is not pruned.
        magnitude_like: title of the row whose final size magnitude pruning has to reach, halfway
            through the training; None for no magnitude pruning.
        ranks: ranks to which the trained network is truncated, one after the other, and then to its
            edge rank; the truncated networks are reported.
        dropout: share of the hidden values that are dropped in training.
        l1: weight of Σ|w|.
        l2: weight of Σw².
        relu_logits: whether a ReLU follows the last layer.
        noise: share of the training labels that are replaced by another class at random.
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
    """Result of one row with one seed.

    Attributes:
        test: accuracy on the test images, in percent.
        train: accuracy on the training images with the labels of the training, in percent.
        parameters: number of parameters of the network; after magnitude pruning, of those that are
            not zero.
        dense: number of parameters of the network when training began.
        ranks: rank of each pruned layer, by name.
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
        name: name on the command line.
        source: paper and section.
        rows: ways of training; the first row of each ``noise`` is the network without pruning.
        published: published accuracies of truncated networks, by their titles.
    """

    name: str
    source: str
    rows: tuple[Row, ...]
    published: Mapping[str, str] = field(default_factory=dict)

    def reference(self, title: str) -> str:
        """Return the title of the row that the row of this title is compared with."""
        row = next((row for row in self.rows if row.title == title), self.rows[0])
        return next(other.title for other in self.rows if other.noise == row.noise)
