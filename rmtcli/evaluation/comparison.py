"""Scores of one network, and their comparison with the dense network's. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtcli.evaluation.confidence import confidence, cosines, kullback_leibler
from rmtcli.evaluation.data import Samples
from rmtcli.evaluation.tasks import Rows


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What was measured on one network.

    Attributes:
        outputs: shape (rows, width), class scores or embeddings; None without data, and of a
            language model, which has too many.
        accuracy: share of predictions that are right, in percent; None without targets. Of
            embeddings, 100 times their mean cosine with the dense network's.
        score: result of the user's own function; None without one.
        chosen: shape (rows,), the class with the largest score, where there are too many outputs
            to keep.
        perplexity: exp of the mean negative log-likelihood of a language model's targets.
    """

    outputs: NDArray[np.floating] | None
    accuracy: float | None
    score: float | None
    chosen: NDArray[np.int64] | None = None
    perplexity: float | None = None

    @property
    def predictions(self) -> NDArray[np.int64] | None:
        """Shape (rows,), the class with the largest score; None without data."""
        return self.chosen if self.outputs is None else self.outputs.argmax(1)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Shares of the samples, in percent, that keep their class whatever the change does to them.

    Attributes:
        propagated: by the norms of the changes and of the layers that they pass through.
        hidden: by the distance that the last hidden layer moved, in whatever direction.
    """

    propagated: float
    hidden: float


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """A network's scores, beside those of the network it was made from.

    Attributes:
        network: what was run.
        samples: what it was run on, or None.
        before: scores of the dense network, or None where there is none to compare with.
        after: scores of the network in question.
        unhealed: scores of that network before it was trained, or None where it was not.
        training: what it was trained by: ``healing`` or ``fine-tuning``.
        certificate: on how many samples the class cannot have changed; None for a network that
            is no chain of linear layers.
        rows: what the outputs are.
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
        """Accuracy lost, in points; None where it was not measured on both.

        Of embeddings, hundredths of the cosine that are missing to 1.
        """
        if self.before is None or self.before.accuracy is None or self.after.accuracy is None:
            return None
        return self.before.accuracy - self.after.accuracy

    @property
    def agreement(self) -> float | None:
        """Share of rows that both networks give the same class, in percent."""
        if self.rows is not Rows.CLASSES or self.before is None or self.before.predictions is None:
            return None
        return 100 * float(np.mean(self.before.predictions == self.after.predictions))

    @property
    def divergence(self) -> float | None:
        """Mean Kullback–Leibler divergence of the class probabilities from the dense ones, nats."""
        if self.rows is not Rows.CLASSES or self.before is None:
            return None
        if self.before.outputs is None or self.after.outputs is None:
            return None
        return kullback_leibler(self.before.outputs, self.after.outputs)

    @property
    def cosines(self) -> NDArray[np.float64] | None:
        """Shape (samples,), of each embedding with the dense network's; None for class scores."""
        if self.rows is not Rows.VECTORS or self.before is None:
            return None
        if self.before.outputs is None or self.after.outputs is None:
            return None
        return cosines(self.before.outputs, self.after.outputs)

    @property
    def margins(self) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]] | None:
        """Each sample's classification confidence, before and after, shape (samples,) each.

        The class is the right one, or without targets the one that the dense network gives.
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
