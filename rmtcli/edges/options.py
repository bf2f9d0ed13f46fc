"""Options that estimators share, and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

#: Share of the eigenvalues left out at each end where an estimator has no option ``alpha``.
WINDOW = 0.2
#: Largest Kolmogorov–Smirnov distance of a good fit (Shmalo, Jenkins and Krupchytskyi, 2023).
MAX_DISTANCE = 0.1
#: Below it, the Tracy–Widom law is known to fewer digits than the margin would need.
SMALLEST_BETA = 1e-10


@dataclass(frozen=True, slots=True)
class LawOptions:
    """Options of an estimator whose fit is compared with the Marchenko–Pastur law.

    Attributes:
        beta: chance that pure noise exceeds the edge.
        max_distance: Kolmogorov–Smirnov distance up to which a fit counts as near where pure
            noise would fit better; taken over the middle 60 % of the eigenvalues.
        tested: whether the law's p-values hold for the estimator.
    """

    beta: float = 0.1
    max_distance: float = MAX_DISTANCE
    alpha: ClassVar[float] = WINDOW
    tested: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(self.alpha, self.beta, self.max_distance)


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """Options of an estimator that fits the noise to a window of eigenvalues of a chosen width.

    Attributes:
        alpha: share of the eigenvalues left out at each end.
        beta: chance that pure noise exceeds the edge.
        max_distance: Kolmogorov–Smirnov distance up to which a fit counts as near where pure
            noise would fit better; taken over the window. Shmalo, Jenkins and Krupchytskyi (2023)
            use 0.1.
        tested: whether the law's p-values hold for the estimator.
    """

    alpha: float = WINDOW
    beta: float = 0.1
    max_distance: float = MAX_DISTANCE
    tested: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(self.alpha, self.beta, self.max_distance)


def check_options(alpha: float, beta: float, max_distance: float) -> None:
    """Reject values that no fit can use.

    Raises:
        ValueError: a value out of range; the message names the option.
    """
    if not 0 <= alpha < 0.5:
        raise ValueError(f"alpha must be in [0, 0.5), not {alpha}")
    if not SMALLEST_BETA <= beta <= 1 - SMALLEST_BETA:
        raise ValueError(
            f"beta must be from {SMALLEST_BETA:g} to 1 - {SMALLEST_BETA:g}, not {beta}"
        )
    if not 0 < max_distance <= 1:
        raise ValueError(f"max_distance must be in (0, 1], not {max_distance}")
