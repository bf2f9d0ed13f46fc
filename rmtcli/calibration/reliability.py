"""How far moments can be trusted: losses on samples that were kept apart, and what more would give.

The best maps of a sample moment are chosen on its noise: their loss on these samples is too small,
and on others it is larger than that of the best maps by about as much. Both errors are
proportional to 1/n, so that the true optimum is halfway between the two losses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmtcli.arrays import FloatArray
from rmtcli.calibration.clean import Cleaner, clean_moments
from rmtcli.calibration.metric import decompose
from rmtcli.calibration.moments import Moments

#: Memory for the moments of samples that are kept apart, in bytes.
APART_BYTES = 64 * 2**20
#: More samples are advised where the maps lose more than this share above the best maps.
EXCESS = 0.1
#: They are not advised where few samples cost less than this, as a share of dropping the layers: on
#: MNIST no accuracy is lost by so little.
COST = 0.002


@dataclass(frozen=True, slots=True)
class HeldOutLoss:
    """Losses of maps on the samples that they were made from, and on samples kept apart.

    Attributes:
        own: loss on their own samples, relative to dropping the layers; a mean over layers.
        apart: loss on the samples kept apart, relative to dropping the layers there.
        layers: number of layers.
    """

    own: float
    apart: float
    layers: int

    @property
    def cost(self) -> float:
        """How much more the maps lose than the best ones."""
        return max(self.apart - self.own, 0.0) / 2

    @property
    def excess(self) -> float:
        """``cost`` as a share of what the best maps lose."""
        both = self.own + self.apart
        return 2 * self.cost / both if both > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far the moments of a calibration can be trusted.

    Attributes:
        inputs: numbers of independent samples that the inputs' moments are worth: the least, the
            median and the largest over layers; None if unknown.
        gradients: the same of the output gradients; None if unknown or not collected.
        aspect: width of a moment over the number of its independent samples: the median over all
            moments; None if unknown. Above 1, a moment is singular.
        loss: losses with and without knowing the samples; None if they were not measured.
        more: how many times as many samples would bring the excess to ``EXCESS``; 1 where it is
            less or costs next to nothing, None if it was not measured.
    """

    inputs: tuple[float, float, float] | None
    gradients: tuple[float, float, float] | None
    aspect: float | None
    loss: HeldOutLoss | None

    @property
    def more(self) -> float | None:
        """The number of samples that helps, as a multiple of today's."""
        if self.loss is None:
            return None
        return max(1.0, self.loss.excess / EXCESS) if self.loss.cost > COST else 1.0


def kept_apart(widths: Mapping[str, tuple[int, int]]) -> set[str]:
    """The layers of which the moments of some samples are kept apart, drawn at random.

    They are as many as fit into ``APART_BYTES``, or the smallest one.

    Args:
        widths: the widths of both moments of each layer, by name.
    """
    sizes = {name: 8 * sum(x**2 for x in pair) for name, pair in widths.items()}
    chosen, left = set[str](), APART_BYTES
    for name in np.random.default_rng(0).permutation(sorted(widths)).tolist():
        if sizes[name] <= left:
            chosen.add(name)
            left -= sizes[name]
    return chosen or set(sorted(sizes, key=sizes.__getitem__)[:1])


def held_out_loss(
    weight: NDArray[np.floating],
    rank: int,
    moments: Moments,
    cleaner: Cleaner,
    *,
    bias: bool,
    gradients: bool,
) -> tuple[float, float] | None:
    """The loss of a layer's map on the samples that it was made from, and on those kept apart.

    The map is made from the cleaned moments of the samples that were not kept apart, and its losses
    are those in the moments of either part, as they are.

    Args:
        weight: shape (out, in).
        rank: of the map.
        moments: of all samples, not cleaned, with the fold that was kept apart.
        cleaner: cleans the moments.
        bias: whether the layer has a bias, which compensates the error of the mean.
        gradients: whether the moments of the gradients are used.

    Returns:
        Both losses, relative to dropping the layer; None if no samples were kept apart.
    """
    rest, fold = moments.without_fold, moments.fold
    if rest is None or fold is None or (gradients and fold.gradient is None):
        return None
    dense = np.asarray(weight, np.float64)
    if moments.of_outputs:  # moments of z = Wx: the error of a map P of z is (1 − P) z
        dense = np.eye(len(dense))
    cleaned = clean_moments({"": rest}, cleaner)[""]
    factors = decompose(dense, cleaned, bias=bias, gradients=gradients).factors(rank)
    error = dense - factors.left @ factors.right

    def loss(part: Moments) -> float:
        shift = part.mean - rest.mean
        second = part.covariance + np.outer(shift, shift) if bias else part.second
        outputs = part.gradient if gradients else None

        def size(maps: FloatArray) -> float:
            measured = maps @ second if outputs is None else outputs @ maps @ second
            return float(np.vdot(measured, maps))

        whole = size(dense)
        return size(error) / whole if whole > 0 else 0.0

    return loss(rest), loss(fold)


def assess_moments(
    moments: Iterable[Moments], losses: Sequence[tuple[float, float] | None]
) -> Reliability:
    """How far the moments of a calibration can be trusted.

    Args:
        moments: of all layers.
        losses: of the pruned layers, by :func:`held_out_loss`.
    """
    inputs, gradients = [], []
    for m in moments:  # which may be read one by one
        inputs.append((len(m.mean), m.independent))
        if m.gradient is not None:
            gradients.append((len(m.gradient), m.independent_gradients))
    ratios = [width / worth for width, worth in inputs + gradients if worth is not None]
    known = np.array([pair for pair in losses if pair is not None])
    loss = None
    if len(known):
        own, apart = known.mean(0)
        loss = HeldOutLoss(float(own), float(apart), len(known))
    aspect = float(np.median(ratios)) if ratios else None
    return Reliability(_range(inputs), _range(gradients), aspect, loss)


def _range(worth: Sequence[tuple[int, float | None]]) -> tuple[float, float, float] | None:
    known = [value for _, value in worth if value is not None]
    if not known:
        return None
    return min(known), float(np.median(known)), max(known)
