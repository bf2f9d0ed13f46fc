"""The distance of pure noise from its fitted law: the source of the constants of ``fit_p_value``.

    python -m benchmarks.null [--draws 1000]

The statistic is p times the Kolmogorov–Smirnov distance over the middle 60 % of p eigenvalues of
Gaussian noise, with BEMA's sigma. Prints Markdown: simulated quantiles, each with the p-value that
the formula gives.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.linalg import eigvalsh_tridiagonal

from rmtcli.edges.bema import Bema
from rmtcli.edges.judge import WINDOW, ks_distance
from rmtcli.law.fluctuations import fit_p_value
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.spectra import Spectrum

LEVELS = (0.5, 0.9, 0.99)


def wishart(rng: np.random.Generator, n: int, p: int) -> Spectrum:
    """Draw the spectrum of n × p Gaussian noise by its bidiagonal form (Dumitriu and Edelman)."""
    diagonal = np.sqrt(rng.chisquare(n - np.arange(p)))
    beside = np.sqrt(rng.chisquare(p - 1 - np.arange(p - 1)))
    squares = diagonal**2
    squares[1:] += beside**2
    values = eigvalsh_tridiagonal(squares, diagonal[:-1] * beside)
    return Spectrum(np.maximum(values, 0) / n, n, p)


def distance(s: Spectrum) -> float:
    """Distance of a spectrum from the law fitted to it."""
    sigma, _ = Bema().sigma(s)
    return ks_distance(s, MarchenkoPastur(s.gamma, sigma), WINDOW)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000)
    draws = parser.parse_args().draws
    print("| p | γ | median p·D | 90 % | 99 % |")
    print("| --- | --- | --- | --- | --- |")
    for p in (20, 64, 256, 1024):
        for gamma in (1.0, 0.25, 0.03125):
            rng = np.random.default_rng([p, round(1 / gamma)])
            distances = [distance(wishart(rng, round(p / gamma), p)) for _ in range(draws)]
            cells = [
                f"{p * q:.2f} (p = {fit_p_value(float(q), p):.3f})"
                for q in np.quantile(distances, LEVELS)
            ]
            print(f"| {p} | {gamma:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
