"""The comparison of a network's scores with the dense network's. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.evaluation.confidence import cosines, log_probabilities
from rmtcli.evaluation.data import Samples
from rmtcli.evaluation.measures import divergence, margins, relative_change
from rmtcli.evaluation.reading import CLASSES, Reading, Rows
from rmtcli.evaluation.scores import Scores
from rmtcli.evaluation.sense import no_better_than_chance
from rmtcli.stability import Stability, cross_entropies, stability


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
        reading: how the rows of outputs are read.
        training: how the compressed network was trained: ``healing`` or ``fine-tuning``.
    """

    network: str
    samples: Samples | None
    before: Scores | None
    after: Scores
    unhealed: Scores | None = None
    certificate: Certificate | None = None
    reading: Reading = CLASSES
    training: str = "healing"

    @property
    def drop(self) -> float | None:
        """Accuracy lost, in points; None if it was not measured on both networks.

        For embeddings, 100 times the difference of their mean cosine from 1; for numbers, 100 times
        the difference in R².
        """
        if self.before is None or self.before.accuracy is None or self.after.accuracy is None:
            return None
        return self.before.accuracy - self.after.accuracy

    @property
    def rows(self) -> Rows:
        """What a row of outputs is."""
        return self.reading.rows

    @property
    def at_chance(self) -> bool:
        """Whether the dense network may do no better than chance, so that there is nothing to lose.

        Embeddings, and numbers without targets, are compared with the dense network's own.
        """
        targets = self.samples is not None and self.samples.targets is not None
        return targets and self.before is not None and no_better_than_chance(self.before, self.rows)

    @property
    def agreement(self) -> float | None:
        """Share of rows for which both networks predict the same class, in percent.

        Of labels, the share that both networks set or both do not.
        """
        if not self.rows.needs_targets or self.before is None or self.before.predictions is None:
            return None
        if self.rows is Rows.LABELS:
            pair = self._outputs
            return pair and 100 * float(np.mean((pair[0] > 0) == (pair[1] > 0)))
        return 100 * float(np.mean(self.before.predictions == self.after.predictions))

    @property
    def divergence(self) -> float | None:
        """Mean Kullback–Leibler divergence from the dense probabilities, in nats.

        It is a mean over samples of the divergence of their classes, or over labels.
        """
        pair = self._outputs if self.rows.needs_targets else None
        return pair and divergence(*pair, self.rows)

    @property
    def relative_change(self) -> float | None:
        """How far numbers move, as a share of the spread of the dense network's; None for others.

        Also None if the dense network gives the same numbers for all samples.
        """
        pair = self._outputs if self.rows is Rows.VALUES else None
        return pair and relative_change(*pair)

    @property
    def _outputs(self) -> tuple[NDArray[np.floating], NDArray[np.floating]] | None:
        """The outputs of both networks; None if there are not two, or they were not kept."""
        if self.before is None or self.before.outputs is None or self.after.outputs is None:
            return None
        return self.before.outputs, self.after.outputs

    @property
    def cosines(self) -> NDArray[np.float64] | None:
        """Cosine of each embedding with the dense network's, shape (samples,); None for classes."""
        pair = self._outputs if self.rows is Rows.VECTORS else None
        return None if pair is None else cosines(*pair)

    @property
    def margins(self) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]] | None:
        """Each sample's classification confidence before and after, shape (samples,) each.

        The class is the target, or without targets the dense network's prediction. A label's
        confidence is its score if it is set and minus its score if it is not; shape (labels,).
        """
        after, rows = self.after.outputs, self.rows
        if not rows.needs_targets or after is None or self.samples is None:
            return None
        if rows is Rows.CLASSES and after.shape[1] < 2:
            return None
        dense = None if self.before is None else self.before.outputs
        decided = self.samples.targets
        if decided is None:
            own = after if dense is None else dense
            decided = own > 0 if rows is Rows.LABELS else own.argmax(1)
        return (
            None if dense is None else margins(dense, decided, rows),
            margins(after, decided, rows),
        )

    @property
    def stability(self) -> tuple[Stability | None, Stability] | None:
        """What the confidences before and after say about training; None without class targets."""
        samples, own = self.samples, self.margins
        if own is None or samples is None or samples.targets is None:
            return None
        if self.rows is not Rows.CLASSES:
            return None
        targets = np.asarray(samples.targets, np.int64)

        def of(scores: Scores | None, values: FloatArray | None) -> Stability | None:
            if scores is None or scores.outputs is None or values is None:
                return None
            return stability(values, cross_entropies(log_probabilities(scores.outputs), targets))

        after = of(self.after, own[1])
        return None if after is None else (of(self.before, own[0]), after)
