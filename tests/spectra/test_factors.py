from __future__ import annotations

import numpy as np
import pytest

from rmtcli.spectra import factorize, spectrum
from tests.conftest import planted


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (50, 50)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_factors_are_the_best_ones_and_equally_large(shape: tuple[int, int], scale: float) -> None:
    w = scale * planted(shape, 3, times=3)
    left, values, right = np.linalg.svd(w)
    made = factorize(w, spectrum(w, vectors=True), 4)
    best = left[:, :4] * values[:4] @ right[:4]
    assert made.product == pytest.approx(best, rel=1e-6, abs=1e-9 * scale)
    norms = np.linalg.norm(made.left, axis=0), np.linalg.norm(made.right, axis=1)
    assert norms[0] == pytest.approx(np.sqrt(values[:4]), rel=1e-9)
    assert norms[1] == pytest.approx(np.sqrt(values[:4]), rel=1e-9)


def test_impossible_requests_are_errors() -> None:
    w = planted((30, 20), 1, times=3)
    with pytest.raises(ValueError, match=r"^factors need a spectrum with vectors$"):
        factorize(w, spectrum(w), 3)
    for rank in (-1, 21):
        with pytest.raises(ValueError, match=f"^rank must be from 0 to 20, not {rank}$"):
            factorize(w, spectrum(w, vectors=True), rank)
    assert factorize(w, spectrum(w, vectors=True), 0).product.tolist() == np.zeros(w.shape).tolist()
    assert factorize(w, spectrum(w, vectors=True), 20).product == pytest.approx(w)
