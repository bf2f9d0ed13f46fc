"""Properties that every registered keep rule must have."""

from __future__ import annotations

import numpy as np
import pytest

from rmtcli.edges import EDGES
from rmtcli.keep import KEEP_RULES, KeepRule, Untouched
from rmtcli.spectra import spectrum
from tests.conftest import noise, planted

#: A value for an option that has no default.
GIVEN = {int: 7, float: 0.5}


def spelled(name: str) -> str:
    needed = [o for o in KEEP_RULES.options(name) if o.default is None]
    return f"{name}:" + ",".join(f"{o.name}={GIVEN[o.type]}" for o in needed)


@pytest.fixture(params=sorted(KEEP_RULES.choices))
def rule(request: pytest.FixtureRequest) -> KeepRule:
    return KEEP_RULES.parse(spelled(request.param))


def rank(rule: KeepRule, w: np.ndarray) -> int | Untouched:
    s = spectrum(w)
    return rule.rank(s, EDGES.parse("bema").fit(s, w))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 5), (64, 200), (200, 64), (90, 90)])
def test_ranks_are_whole_numbers_in_range(rule: KeepRule, shape: tuple[int, int]) -> None:
    for w in (noise(shape), np.ones(shape), np.eye(*shape)):
        chosen = rank(rule, w)
        assert isinstance(chosen, Untouched) or (type(chosen) is int and 0 <= chosen <= min(shape))


def test_transposing_rotating_and_scaling_change_nothing(rule: KeepRule) -> None:
    w = planted((150, 90), 4, times=3)
    q = np.linalg.qr(np.random.default_rng(1).standard_normal((150, 150)))[0]
    chosen = rank(rule, w)
    assert rank(rule, w.T) == chosen
    assert rank(rule, q @ w) == chosen
    assert rank(rule, 1e-12 * w) == chosen
    assert rank(rule, 1e12 * w) == chosen


def test_spelling_and_parsing_are_inverses(rule: KeepRule) -> None:
    assert KEEP_RULES.parse(KEEP_RULES.spell(rule)) == rule
