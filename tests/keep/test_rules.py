from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmtcli.edges import EDGES, EdgeFit, Verdict
from rmtcli.edges.base import Noise
from rmtcli.errors import UsageError
from rmtcli.keep import KEEP_RULES, Untouched
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.spectra import Spectrum, spectrum
from tests.conftest import noise, planted

LAW = MarchenkoPastur(0.5, 1.0)
FIT = EdgeFit(LAW, 4.5, ks_distance=0.01, verdict=Verdict.FITS, noise=Noise.of(LAW, 100))


def fake(eigenvalues: list[float]) -> Spectrum:
    values = np.sort(np.array(eigenvalues, dtype=float))
    return Spectrum(values, 2 * len(values), len(values))


def rank(rule: str, s: Spectrum, fit: EdgeFit = FIT) -> int | Untouched:
    return KEEP_RULES.parse(rule).rank(s, fit)


def test_edge_keeps_spikes_and_a_share_of_the_rest() -> None:
    s = fake([9.0, 6.0, *[1.0] * 30])
    assert rank("edge", s) == 2
    assert rank("edge:below=0.1", s) == 2 + 3
    assert rank("edge:below=0.11", s) == 2 + 4
    # 0.07 · 100 is 7.000000000000001 to a computer.
    assert rank("edge:below=0.07", fake([1.0] * 100)) == 7
    assert rank("fraction:of=0.07", fake([1.0] * 100)) == 7
    assert rank("edge:below=1", s) == 32
    assert rank("edge:at_least=10", s) == 10
    assert rank("edge:at_least=100", s) == 32


@given(st.integers(0, 40), st.integers(1, 200), st.floats(0, 1))
def test_edge_drops_no_more_than_its_share(spikes: int, below: int, share: float) -> None:
    kept = rank(f"edge:below={share!r}", fake([9.0] * spikes + [1.0] * below))
    assert isinstance(kept, int)
    dropped = spikes + below - kept
    assert dropped <= (1 - share) * below + 1e-6
    assert dropped > (1 - share) * below - 1 - 1e-6 or kept == 1


def test_edge_acts_whatever_the_verdict_and_auto_obeys_it() -> None:
    s = fake([9.0, *[1.0] * 30])
    for verdict in Verdict:
        fit = replace(FIT, verdict=verdict)
        assert rank("edge", s, fit) == 1
        expected = 1 if verdict.trusted else Untouched[verdict.name]
        assert rank("auto", s, fit) == expected


def test_auto_does_not_delete_a_layer_without_spikes() -> None:
    assert rank("auto", fake([1.0] * 30)) is Untouched.NO_SPIKES


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=50), st.floats(0, 1))
def test_energy_keeps_just_enough(values: list[float], share: float) -> None:
    s = fake(values)
    kept = rank(f"energy:fraction={share!r}", s)
    assert isinstance(kept, int)
    total = s.eigenvalues.sum()

    def energy(k: int) -> float:
        return float(s.eigenvalues[len(values) - k :].sum())

    assert energy(kept) >= share * total * (1 - 1e-12)
    assert kept == 0 or energy(kept - 1) < share * total * (1 + 1e-12)


@pytest.mark.parametrize(("share", "kept"), [(0, 0), (0.1, 3), (0.101, 4), (1, 30)])
def test_fraction_rounds_up(share: float, kept: int) -> None:
    assert rank(f"fraction:of={share}", fake([1.0] * 30)) == kept


def test_rank_is_capped_by_the_layer() -> None:
    assert rank("rank:k=7", fake([1.0] * 30)) == 7
    assert rank("rank:k=70", fake([1.0] * 30)) == 30


@pytest.mark.parametrize("shape", [(100, 100), (60, 240)])
def test_hard_threshold_is_omega_times_the_median(shape: tuple[int, int]) -> None:
    """Gavish and Donoho (2014): s > ω(γ)·median(s), ω from their rational fit to 0.02."""
    w = planted(shape, 3, times=4)
    g = min(shape) / max(shape)
    omega = 0.56 * g**3 - 0.95 * g**2 + 1.82 * g + 1.43
    singular = np.linalg.svd(w, compute_uv=False)
    s = spectrum(w)
    chosen = rank("hard-threshold", s, EDGES.parse("bema").fit(s, w))
    assert chosen == 3
    assert np.sum(singular > (omega + 0.02) * np.median(singular)) <= chosen
    assert np.sum(singular > (omega - 0.02) * np.median(singular)) >= chosen


def test_a_rank_is_below_break_even_exactly_where_factors_are_smaller() -> None:
    from rmtcli.checkpoint import encode
    from rmtcli.layers import Layer

    for out, inputs in [(1, 1), (1, 9), (10, 1000), (784, 1000), (512, 512), (3, 7)]:
        layer = Layer("w", (out, inputs), "F32", lambda: encode(noise((1, 1)), "F32"))
        r = layer.break_even_rank
        assert r * (out + inputs) < out * inputs <= (r + 1) * (out + inputs)
        assert r < math.inf


@pytest.mark.parametrize(("threshold", "kept"), [(0, 4), (0.25, 4), (0.26, 3), (0.5, 3), (1, 2)])
def test_relative_keeps_a_share_of_the_largest_singular_value(threshold: float, kept: int) -> None:
    s = fake([1.0, 4.0, 16.0, 16.0])  # singular values of 1 : 2 : 4 : 4
    chosen = rank(f"relative:threshold={threshold}", s)
    assert chosen == kept
    assert type(chosen) is int


@pytest.mark.parametrize(("rule", "at_least"), [("edge:at_least", 1), ("rank:k", 1)])
def test_counts_begin_at_one(rule: str, at_least: int) -> None:
    option = rule.partition(":")[2]
    assert rank(f"{rule}={at_least}", fake([9.0, 1.0])) == at_least
    with pytest.raises(UsageError, match=f"{option} must be at least 1, not 0"):
        KEEP_RULES.parse(f"{rule}=0")


@pytest.mark.parametrize(
    "rule", ["edge:below", "energy:fraction", "fraction:of", "relative:threshold"]
)
def test_shares_range_from_0_to_1(rule: str) -> None:
    option = rule.partition(":")[2]
    for share in (0, 1):
        KEEP_RULES.parse(f"{rule}={share}")
    for share in (-0.01, 1.01):
        with pytest.raises(UsageError, match=rf"{option} must be from 0 to 1, not {share}"):
            KEEP_RULES.parse(f"{rule}={share}")


def test_a_layer_of_zeros_has_energy_in_no_direction() -> None:
    assert rank("energy:fraction=0.5", fake([0.0] * 5)) == 0
    assert rank("energy:fraction=0.5", fake([1.0, 1.0])) == 1
