"""The scores of one network. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The measurements on one network.

    Attributes:
        outputs: shape (rows, width), scores of classes or labels, embeddings or numbers; None
            without data, and for a language model, whose outputs are too many to keep.
        accuracy: 100 times the mean of ``merits``: of classes, the share of correct predictions, in
            percent; of labels, the share that is right. Of embeddings, 100 times their mean cosine
            with the dense network's; of numbers, 100 times R². None without targets, for which the
            dense network's outputs stand where rows are embeddings or numbers.
        score: result of the user's own function; None without one.
        chosen: shape (rows,), the predicted classes of a language model.
        perplexity: exp of the mean negative log-likelihood of a language model's targets.
        classes: the number of class scores in a row, for a language model its tokens; None without
            data, and for other rows.
        merits: shape (rows,), how good each row is; None where ``accuracy`` is.
        texts: shape (texts, 2), of a language model: the negative log-likelihood of each text's
            tokens, and their number.
        scored: shape (samples,), the user's own score of each sample, where the function returns
            one for each; ``score`` is their mean.
        squared_error: mean squared error of numbers; None without targets, and for other rows.
    """

    outputs: NDArray[np.floating] | None
    accuracy: float | None
    score: float | None
    chosen: NDArray[np.int64] | None = None
    perplexity: float | None = None
    classes: int | None = None
    merits: FloatArray | None = None
    squared_error: float | None = None
    texts: FloatArray | None = None
    scored: FloatArray | None = None

    @property
    def predictions(self) -> NDArray[np.int64] | None:
        """Shape (rows,), the class with the largest score; None without data."""
        return self.chosen if self.outputs is None else self.outputs.argmax(1)
