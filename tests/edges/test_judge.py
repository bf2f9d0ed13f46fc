"""From an estimate of sigma to a fit with its verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rmtcli.edges import EdgeFit, Verdict
from rmtcli.edges.base import MIN_EIGENVALUES, Noise, central_window
from rmtcli.edges.judge import all_equal, judge, ks_distance, low_rank, unjudged, without
from rmtcli.edges.options import LawOptions, WindowOptions, check_options
from rmtcli.law import tracy_widom
from rmtcli.law.fluctuations import fit_p_value
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.spectra import Spectrum, spectrum
from tests.conftest import noise, planted


def evenly(n: int, p: int, sigma: float = 1.0) -> Spectrum:
    """Eigenvalues at the law's own quantiles: the nearest that p of them can be to it."""
    return Spectrum(MarchenkoPastur(p / n, sigma).ppf((np.arange(p) + 0.5) / p), n, p)


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.4])
def test_the_distance_is_taken_at_both_sides_of_each_step(alpha: float) -> None:
    s = spectrum(noise((150, 70)))
    law = MarchenkoPastur(70 / 150, 1.01)
    largest = 0.0
    for i, value in enumerate(s.eigenvalues):
        if math.floor(alpha * 70) <= i < 70 - math.floor(alpha * 70):
            fitted = float(law.cdf(value))
            largest = max(largest, abs((i + 1) / 70 - fitted), abs(fitted - i / 70))
    assert ks_distance(s, law, alpha) == pytest.approx(largest, rel=1e-12)
    assert ks_distance(evenly(150, 70), MarchenkoPastur(70 / 150), alpha) == pytest.approx(0.5 / 70)


def test_without_noise_the_distance_is_the_share_that_is_not_zero() -> None:
    s = Spectrum(np.array([0.0] * 6 + [1.0] * 4), 20, 10)
    law = MarchenkoPastur(0.5, 0.0)
    assert ks_distance(s, law, 0.2) == 0
    assert ks_distance(Spectrum(s.eigenvalues - 1, 20, 10), law, 0.2) == 1


def test_spikes_are_removed_with_their_dimensions() -> None:
    s = Spectrum(np.arange(1.0, 11.0), 30, 10)
    bulk = without(s, 4)
    assert (bulk.n, bulk.p) == (26, 6)
    assert bulk.eigenvalues == pytest.approx(np.arange(1.0, 7.0) * 30 / 26)
    assert without(s, 0).eigenvalues.tolist() == s.eigenvalues.tolist()


def test_a_fit_has_the_values_that_it_was_made_from() -> None:
    w = planted((200, 100), 3, times=4)
    s = spectrum(w)
    fit = judge(s, w, 0.9, WindowOptions(alpha=0.1, beta=0.05), sigma_error=0.01, removed=3)
    law, bulk = MarchenkoPastur(0.5, 0.9), without(s, 3)
    assert fit.law == law
    assert fit.noise == Noise.of(law, 100)
    assert fit.edge == fit.noise.edge(0.05)
    assert fit.ks_distance == ks_distance(bulk, MarchenkoPastur(bulk.gamma, 0.9), 0.1)
    assert fit.p_value == fit_p_value(fit.ks_distance, 97)
    assert fit.sigma_error == 0.01
    assert fit.one_variance
    assert fit.chosen == ""
    compared = judge(s, w, 0.9, LawOptions(0.05), sigma_error=None, compared=evenly(200, 100))
    assert compared.ks_distance == pytest.approx(0.005)
    assert not compared.one_variance
    assert compared.edge == fit.edge
    given = judge(s, w, 0.9, LawOptions(0.5), sigma_error=None, noise=Noise(7.0, None))
    assert given.edge == 7.0
    assert given.ks_distance == ks_distance(s, law, 0.2)


def test_wide_signal_exceeds_the_window_or_half_of_p_once_spikes_are_removed() -> None:
    def verdict(spikes: int, removed: int) -> Verdict:
        w = np.random.default_rng(0).standard_normal((200, 100))
        values = evenly(200 - removed, 100 - removed).eigenvalues * (200 - removed) / 200
        values = np.concatenate([values[: 100 - spikes], np.full(spikes, 50.0)])
        s = Spectrum(np.sort(values), 200, 100)
        options = WindowOptions(alpha=0.2, beta=0.1, max_distance=1)
        return judge(s, w, 1.0, options, sigma_error=None, removed=removed).verdict

    assert verdict(20, 0) is Verdict.FITS
    assert verdict(21, 0) is Verdict.WIDE_SIGNAL
    assert verdict(50, 50) is Verdict.FITS
    assert verdict(51, 50) is Verdict.WIDE_SIGNAL


def test_a_poor_fit_is_both_improbable_and_distant() -> None:
    s = evenly(200, 100)
    w = noise((200, 100))
    shifted = Spectrum(s.eigenvalues * 1.15, 200, 100)
    fit = judge(shifted, w, 1.0, LawOptions(0.1, 0.02), sigma_error=None)
    assert 0.02 < fit.ks_distance < 0.2
    assert fit.p_value is not None
    assert fit.p_value < 0.01
    assert fit.verdict is Verdict.POOR_FIT
    at = judge(shifted, w, 1.0, LawOptions(0.1, fit.ks_distance), sigma_error=None)
    assert at.verdict is Verdict.NEAR


def test_a_distance_excuses_an_improbable_fit_only_where_it_is_negligible() -> None:
    """At a given distance the p-value falls with the size: here it is below 1e-10 for both."""
    w = noise((60, 40))

    def verdict(shift: float) -> tuple[Verdict, float]:
        s = evenly(8000, 4000)
        moved = Spectrum(s.eigenvalues * (1 + shift), s.n, s.p)
        options = LawOptions(0.1, 0.02)
        fit = judge(moved, w, 1.0, options, sigma_error=None, compared=moved)
        assert fit.p_value is not None
        assert fit.p_value < 1e-10
        return fit.verdict, fit.ks_distance

    assert verdict(0.006) == (Verdict.FITS, pytest.approx(0.003, abs=0.001))
    assert verdict(0.02) == (Verdict.NEAR, pytest.approx(0.012, abs=0.004))


def test_no_noise_is_the_first_verdict_and_too_few_values_the_second() -> None:
    few = MIN_EIGENVALUES - 1
    equal = Spectrum(np.ones(few), 2 * few, few)
    w = noise((2 * few, few))
    assert judge(equal, w, 0.0, LawOptions(0.1), sigma_error=None).verdict is Verdict.LOW_RANK
    assert judge(equal, w, 1.0, LawOptions(0.1), sigma_error=None).verdict is Verdict.TOO_SMALL
    assert unjudged(equal, w, 1.0, 5.0).verdict is Verdict.TOO_SMALL
    enough = Spectrum(np.ones(few + 1), 2 * few + 2, few + 1)
    w = noise((2 * few + 2, few + 1))
    assert judge(enough, w, 1.0, LawOptions(0.1), sigma_error=None).verdict is Verdict.ALL_EQUAL
    assert unjudged(enough, w, 1.0, 5.0).verdict is Verdict.ALL_EQUAL


def test_a_fit_without_a_law_has_only_an_edge() -> None:
    w = planted((100, 50), 2, times=5)
    s = spectrum(w)
    fit = unjudged(s, w, 1.1, 4.0)
    assert fit.law == MarchenkoPastur(0.5, 1.1)
    assert fit.noise == Noise(4.0, None)
    assert (fit.edge, fit.verdict, fit.one_variance) == (4.0, Verdict.NO_LAW, False)
    assert fit.ks_distance == ks_distance(s, fit.law, 0.2)
    assert fit.p_values(s.eigenvalues) is None
    assert fit.signal(s.n, s.eigenvalues) is None


def test_low_rank_is_a_median_of_zero() -> None:
    assert low_rank(Spectrum(np.array([0.0] * 10 + [1.0] * 11), 40, 21)) is None
    fit = low_rank(Spectrum(np.array([0.0] * 11 + [1.0] * 10), 40, 21))
    assert fit is not None
    assert fit.verdict is Verdict.LOW_RANK
    assert fit.law == MarchenkoPastur(21 / 40, 0.0)
    assert (fit.edge, fit.ks_distance, fit.noise.top, fit.noise.scale) == (0, 0, 0, 0)


@pytest.mark.parametrize(("largest", "equal"), [(1.0, True), (1.019, True), (1.021, False)])
def test_values_within_two_percent_are_equal(largest: float, equal: bool) -> None:
    s = Spectrum(np.linspace(1.0, largest, 30), 60, 30)
    assert all_equal(s) is equal
    # Noise on so long a side would not differ by more.
    assert not all_equal(Spectrum(s.eigenvalues, 600_000, 30))


def test_the_edge_of_noise_moves_with_its_tails() -> None:
    law, p = MarchenkoPastur(0.25, 2.0), 100
    plain, light = Noise.of(law, p), Noise.of(law, p, -1.2)
    assert plain.top == law.lambda_plus
    assert light.top == pytest.approx(law.lambda_plus * (1 - 1.2 / 200), rel=1e-12)
    assert plain.scale == light.scale == tracy_widom.scale(law, p)
    quantile = tracy_widom.quantile(0.9)
    assert light.edge(0.1) == pytest.approx(light.top + quantile * plain.scale, rel=1e-12)
    assert Noise(3.0, None).edge(0.1) == 3.0


def test_p_values_are_those_of_tracy_and_widom() -> None:
    law = MarchenkoPastur(0.5)
    noise = Noise.of(law, 100)
    fit = EdgeFit(law, 4.0, 0.0, Verdict.FITS, noise)
    values = noise.top + np.array([-1.0, 0.0, 2.0, 30.0]) * (noise.scale or 0)
    expected = [1 - tracy_widom.cdf(x) for x in (-1.0, 0.0, 2.0)]
    p_values = fit.p_values(values)
    assert p_values is not None
    assert p_values[:3] == pytest.approx(expected, rel=1e-9)
    assert p_values[3] == 0
    nothing = EdgeFit(law, 0.0, 0.0, Verdict.LOW_RANK, Noise(0.0, 0.0)).p_values(values)
    assert nothing is not None
    assert nothing.tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("p", "alpha", "first"), [(10, 0.0, 0), (10, 0.2, 2), (19, 0.2, 3), (10, 0.49, 4), (9, 0.49, 4)]
)
def test_the_window_begins_at_a_share(p: int, alpha: float, first: int) -> None:
    assert central_window(p, alpha) == slice(first, p - first)


def test_the_ends_of_option_ranges_are_allowed() -> None:
    for alpha, beta, distance in [(0.0, 1e-10, 1.0), (0.49, 1 - 1e-10, 1e-3)]:
        check_options(alpha, beta, distance)
    for values, message in [
        ((0.5, 0.1, 0.1), r"^alpha must be in \[0, 0.5\), not 0.5$"),
        ((-0.1, 0.1, 0.1), "alpha must be"),
        ((0.2, 9e-11, 0.1), r"^beta must be from 1e-10 to 1 - 1e-10, not 9e-11$"),
        ((0.2, 1 - 1e-11, 0.1), "beta must be"),
        ((0.2, 0.1, 0.0), r"^max_distance must be in \(0, 1\], not 0.0$"),
        ((0.2, 0.1, 1.01), "max_distance must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_options(*values)
