"""The scores of a network, and their comparison with the dense network's. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtcli.evaluation.confidence import confidence, cosines, kullback_leibler
from rmtcli.evaluation.data import Samples
from rmtcli.evaluation.tasks import Rows


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The measurements on one network.

    Attributes:
        outputs: shape (rows, width), class scores or embeddings; None without data, and for a
            language model, whose outputs are too many to keep.
        accuracy: share of correct predictions, in percent; None without targets. For embeddings,
            100 times their mean cosine with the dense network's.
        score: result of the user's own function; None without one.
        chosen: shape (rows,), the predicted classes of a language model.
        perplexity: exp of the mean negative log-likelihood of a language model's targets.
        classes: the number of class scores in a row, for a language model its tokens; None without
            data.
    """

    outputs: NDArray[np.floating] | None
    accuracy: float | None
    score: float | None
    chosen: NDArray[np.int64] | None = None
    perplexity: float | None = None
    classes: int | None = None

    @property
    def predictions(self) -> NDArray[np.int64] | None:
        """Shape (rows,), the class with the largest score; None without data."""
        return self.chosen if self.outputs is None else self.outputs.argmax(1)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Shares of the samples, in percent, whose class the change of the weights cannot have changed.

    Attributes:
        propagated: as proved by the norms of the changes and of the layers after them.
        hidden: as proved by the distance that the last hidden layer moved.
    """

    propagated: float
    hidden: float


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The scores of a compressed network beside those of the dense network.

    Attributes:
        network: the network in words, such as its factory or its transformers class.
        samples: the samples it ran on, or None.
        before: scores of the dense network, or None if there is none to compare with.
        after: scores of the compressed network.
        unhealed: scores of the compressed network before training, or None if it was not trained.
        certificate: shares of samples whose class cannot have changed; None for a network that is
            not a chain of linear layers.
        rows: what a row of outputs is.
        training: how the compressed network was trained: ``healing`` or ``fine-tuning``.
    """

    network: str
    samples: Samples | None
    before: Scores | None
    after: Scores
    unhealed: Scores | None = None
    certificate: Certificate | None = None
    rows: Rows = Rows.CLASSES
    training: str = "healing"

    @property
    def drop(self) -> float | None:
        """Accuracy lost, in points; None if it was not measured on both networks.

        For embeddings, 100 times the difference of their mean cosine from 1.
        """
        if self.before is None or self.before.accuracy is None or self.after.accuracy is None:
            return None
        return self.before.accuracy - self.after.accuracy

    @property
    def agreement(self) -> float | None:
        """Share of rows for which both networks predict the same class, in percent."""
        if self.rows is not Rows.CLASSES or self.before is None or self.before.predictions is None:
            return None
        return 100 * float(np.mean(self.before.predictions == self.after.predictions))

    @property
    def divergence(self) -> float | None:
        """Mean Kullback–Leibler divergence from the dense class probabilities, in nats."""
        if self.rows is not Rows.CLASSES or self.before is None:
            return None
        if self.before.outputs is None or self.after.outputs is None:
            return None
        return kullback_leibler(self.before.outputs, self.after.outputs)

    @property
    def cosines(self) -> NDArray[np.float64] | None:
        """Cosine of each embedding with the dense network's, shape (samples,); None for classes."""
        if self.rows is not Rows.VECTORS or self.before is None:
            return None
        if self.before.outputs is None or self.after.outputs is None:
            return None
        return cosines(self.before.outputs, self.after.outputs)

    @property
    def margins(self) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]] | None:
        """Each sample's classification confidence before and after, shape (samples,) each.

        The class is the target, or without targets the dense network's prediction.
        """
        if self.rows is not Rows.CLASSES or self.after.outputs is None or self.samples is None:
            return None
        if self.after.outputs.shape[1] < 2:
            return None
        classes = self.samples.targets
        if classes is None:
            classes = (self.before or self.after).predictions
            assert classes is not None
        dense = None if self.before is None else self.before.outputs
        return (
            None if dense is None else confidence(dense, classes),
            confidence(self.after.outputs, classes),
        )
