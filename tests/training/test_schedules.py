"""How much is kept beside the rule's rank."""

from __future__ import annotations

from itertools import pairwise

import pytest

from rmtcli.training import SCHEDULES


@pytest.mark.parametrize("text", ["constant:of=0.45", "linear:until=300"])
def test_shares_never_rise_and_stay_between_0_and_1(text: str) -> None:
    shares = [SCHEDULES.parse(text).share(time) for time in range(400)]
    assert all(0 <= b <= a <= 1 for a, b in pairwise(shares))


def test_the_published_schedules() -> None:
    assert SCHEDULES.parse("constant:of=0.45").share(7) == 0.45
    linear = SCHEDULES.parse("linear:until=300")
    assert [linear.share(t) for t in (0, 75, 300, 301)] == [1, 0.75, 0, 0]
