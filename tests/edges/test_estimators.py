"""Properties of single estimators; tests/contracts has those that all share."""

from __future__ import annotations

import numpy as np
import pytest

from rmtcli.checkpoint import decode, encode
from rmtcli.edges import EDGES, EdgeFit, Verdict
from rmtcli.edges.kritchman_nadler import noise_variance
from rmtcli.errors import UsageError
from rmtcli.keep import KEEP_RULES, Untouched
from rmtcli.noise import NOISES
from rmtcli.noise import planted as drawn
from rmtcli.spectra import Spectrum, spectrum
from tests.conftest import noise, planted


def fitted(name: str, w: np.ndarray) -> tuple[int, EdgeFit]:
    s = spectrum(w)
    fit = EDGES.parse(name).fit(s, w)
    return s.count_above(fit.edge), fit


def kinds(kind: str, shape: tuple[int, int], seeds: int) -> list[np.ndarray]:
    return [drawn(np.random.default_rng(i), shape, NOISES.parse(kind)) for i in range(seeds)]


@pytest.mark.parametrize("spread", [0.25, 0.5])
@pytest.mark.parametrize("shape", [(300, 784), (784, 300)])
def test_unequal_rows_are_reported_and_allowed_for(spread: float, shape: tuple[int, int]) -> None:
    for w in kinds(f"row-scaled:spread={spread}", shape, 4):
        spikes, fit = fitted("bema", w)
        assert spikes > 5
        assert fit.verdict is Verdict.HETEROSCEDASTIC
        spikes, fit = fitted("select", w)
        assert spikes <= 2
        assert fit.verdict is Verdict.FITS
        assert fit.chosen.startswith("dyson")
        assert fit.law.sigma == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("kind", ["student:df=3", "sparse:density=0.05"])
@pytest.mark.parametrize("name", ["select", "bema", "kritchman-nadler", "dyson", "sign-flip"])
def test_heavy_tails_are_reported(kind: str, name: str) -> None:
    for w in kinds(kind, (300, 500), 3):
        _, fit = fitted(name, w)
        assert fit.verdict is Verdict.HEAVY_TAILED
        assert KEEP_RULES.parse("auto").rank(spectrum(w), fit) is Untouched.HEAVY_TAILED


@pytest.mark.parametrize("edge", EDGES.choices)
@pytest.mark.parametrize("shape", [(200, 200), (300, 100)])
def test_an_orthogonal_layer_is_left_alone(shape: tuple[int, int], edge: str) -> None:
    q = 3 * np.linalg.qr(noise(shape))[0]
    for w in (q, q.astype(np.float16), np.eye(*shape)):
        count, fit = fitted(edge, w)
        assert count == 0
        assert fit.verdict is Verdict.ALL_EQUAL
        assert KEEP_RULES.parse("auto").rank(spectrum(w), fit) is Untouched.ALL_EQUAL


def test_noise_on_a_very_long_side_is_not_an_orthogonal_layer() -> None:
    """At γ = 1/15,000 the eigenvalues of noise differ by 3 %."""
    w = noise((300_000, 20))
    assert spectrum(w).eigenvalues[-1] < 1.03 * spectrum(w).eigenvalues[0]
    assert fitted("bema", w)[1].verdict is not Verdict.ALL_EQUAL


def test_correlated_noise_is_reported() -> None:
    for w in kinds("correlated:rho=0.5", (300, 500), 3):
        assert fitted("select", w)[1].verdict is Verdict.POOR_FIT
        assert fitted("screenot", w)[0] <= 2


@pytest.mark.parametrize("rank", [20, 100])
def test_refits_remove_the_effect_of_spikes_on_sigma(rank: int) -> None:
    w = planted((500, 400), rank, times=3)
    assert fitted("bema", w)[1].law.sigma > 1.01
    spikes, fit = fitted("bema:refits=20", w)
    assert spikes == rank
    assert fit.law.sigma == pytest.approx(1, rel=0.01 if rank == 20 else 0.03)
    assert fit.verdict is Verdict.FITS
    # A standard error that holds: within three, and the bias of removing so many spikes.
    assert abs(fit.law.sigma - 1) < 3 * fit.sigma_error + 0.01  # type: ignore[operator]
    low, high = fit.edge_interval  # type: ignore[misc]
    assert low < fit.edge < high


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("gamma_shape", [1.0, 10.0])
def test_bema_gamma_recovers_the_spread_of_the_variances(side: int, gamma_shape: float) -> None:
    n, p, spikes = 500, 250, 3
    counts, sigmas = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        variances = rng.gamma(gamma_shape, 1 / gamma_shape, (n, p)[side])
        scales = np.sqrt(variances if side else variances[:, None])
        left, right = (np.linalg.qr(rng.standard_normal((m, spikes)))[0] for m in (n, p))
        w = scales * rng.standard_normal((n, p)) + left * (8 * np.sqrt(n)) @ right.T
        count, fit = fitted("bema-gamma", w)
        assert fit.verdict is Verdict.FITS
        counts.append(count)
        sigmas.append(fit.law.sigma)
        assert abs(fit.law.sigma - 1) < 4 * fit.sigma_error  # type: ignore[operator]
    # All that was planted; a false one on top comes with chance 0.1 (P[X > 4 of 8] = 0.04 %).
    assert min(counts) >= spikes
    assert sum(count > spikes for count in counts) <= 4
    assert np.mean(sigmas) == pytest.approx(1, rel=0.05)


def rounded_change(seed: int, shape: tuple[int, int], step: float, rank: int = 0) -> np.ndarray:
    """A change of weights in bfloat16: noise of the optimizer's size, and strong directions."""
    rng = np.random.default_rng(seed)
    base = decode(encode(0.03 * rng.standard_normal(shape), "BF16"))
    change = drawn(rng, shape, NOISES.parse("gaussian"), sigma=step)
    if rank:
        left, right = (np.linalg.qr(rng.standard_normal((m, rank)))[0] for m in shape)
        change += 0.4 * left @ right.T
    return decode(encode(base + change, "BF16")).astype(np.float64) - base


@pytest.mark.parametrize("step", [1e-4, 1e-5])
def test_rounding_to_bfloat16_makes_no_spikes_of_a_change(step: float) -> None:
    """At steps of 1e-5, nine in ten entries do not change, and the law fits no more."""
    false = {"change": 0, "select:beta=0.001": 0}
    for seed in range(25):
        w = rounded_change(seed, (160, 96), step)
        for name in false:
            false[name] += fitted(name, w)[0] > 0
    # beta = 0.001 (P[X > 1 of 25] = 0.03 %).
    assert false["change"] <= 1
    assert step == 1e-4 or false["select:beta=0.001"] > 20
    assert {fitted("change", rounded_change(i, (160, 96), step, 3))[0] for i in range(5)} == {3}


def test_a_change_has_p_values_under_random_signs() -> None:
    w = rounded_change(0, (160, 96), 1e-5)
    _, fit = fitted("change", w)
    assert fit.verdict is Verdict.NO_LAW
    assert fit.chosen.startswith("random signs")
    p_values = fit.p_values(np.array([*spectrum(w).eigenvalues[-1:], fit.edge, 2 * fit.edge]))
    assert p_values is not None
    assert p_values[0] > 0.001
    assert p_values[1] == pytest.approx(0.001, rel=1e-6)
    assert p_values[2] < 1e-6
    with pytest.raises(UsageError, match="trials"):
        EDGES.parse("change:trials=1")


def test_small_layers_are_fitted_by_kritchman_and_nadler() -> None:
    spikes, fit = fitted("select", planted((30, 200), 2, times=4))
    assert spikes == 2
    assert fit.chosen.startswith("kritchman-nadler")
    assert fit.verdict is Verdict.FITS


def test_light_tails_lower_the_edge_of_select_alone() -> None:
    w = np.random.default_rng(0).uniform(-1, 1, (128, 100))
    refits = fitted("bema:refits=20", w)[1]
    selected = fitted("select", w)[1]
    assert selected.noise.top / refits.noise.top == pytest.approx(1 - 1.2 / 113.1, rel=1e-3)


def test_p_values_fall_from_spike_to_spike() -> None:
    w = planted((300, 200), 3, times=2)
    s = spectrum(w)
    fit = EDGES.parse("select").fit(s, w)
    top = s.eigenvalues[-6:]
    p_values = fit.p_values(top)
    assert p_values is not None
    assert (np.diff(p_values) <= 0).all()
    # Above the edge, and only there, they are below beta.
    assert ((p_values < 0.1) == (top > fit.edge)).all()
    assert EDGES.parse("screenot").fit(s, w).p_values(top) is None


def test_kritchman_nadler_solves_the_papers_equations() -> None:
    s = spectrum(planted((200, 80), 3, times=3, sigma=0.5))
    values, k = s.eigenvalues[::-1], 3
    variance = noise_variance(values, s.n, k)
    own = []
    for value in values[:k]:
        roots = np.roots([1, -(value + variance - variance * (s.p - k) / s.n), value * variance])
        own.append(roots.real.max())
    total = values[k:].sum() + sum(values[i] - own[i] for i in range(k))
    assert variance == pytest.approx(total / (s.p - k), rel=1e-9)
    assert variance == pytest.approx(0.25, rel=0.03)


def test_mp_pca_is_the_loop_of_the_paper() -> None:
    for seed in range(5):
        w = planted((300, 100), 4, times=2, seed=seed)
        s = spectrum(w)
        count = s.p
        while s.eigenvalues[count - 1] - s.eigenvalues[0] > (
            4 * np.sqrt(count / s.n) * s.eigenvalues[:count].mean()
        ):
            count -= 1
        assert fitted("mp-pca", w)[0] == s.p - count


def test_screenot_is_the_hard_threshold_in_white_noise() -> None:
    """Donoho, Gavish and Romanov (2023): 4/√3 for a square matrix, as Gavish and Donoho (2014)."""
    _, fit = fitted("screenot", noise((600, 600)))
    assert np.sqrt(fit.edge) == pytest.approx(4 / np.sqrt(3), rel=0.02)


def test_sign_flip_takes_its_edge_from_flipped_noise() -> None:
    w = planted((200, 100), 3, times=4)
    spikes, fit = fitted("sign-flip", w)
    assert spikes == 3
    # The edge is that of noise alone, though the signal was flipped with it at first.
    assert fit.edge == pytest.approx(fitted("select", w)[1].edge, rel=0.05)
    assert fit.law.sigma == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize(
    "choice",
    [
        "sign-flip:trials=5",
        "sign-flip:beta=1",
        "screenot:bound=0.5",
        "bema:refits=-1",
        "select:beta=0",
        "dyson:max_distance=0",
    ],
)
def test_options_out_of_range_are_refused(choice: str) -> None:
    option = choice.partition(":")[2].partition("=")[0]
    with pytest.raises(UsageError, match=f"{option} must be"):
        EDGES.parse(choice)


def test_bema_needs_only_a_spectrum() -> None:
    s = Spectrum(np.linspace(0.5, 1.5, 50), 100, 50)
    sigma, removed = EDGES.parse("bema:refits=3").sigma(s)  # type: ignore[attr-defined]
    assert sigma > 0
    assert removed == 0
