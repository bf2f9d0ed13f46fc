from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from rmtcli.layers import Link, ordered


@given(st.lists(st.integers(1, 3), min_size=2, max_size=6), st.randoms())
def test_an_order_is_found_only_if_no_other_is_possible(widths: list[int], random) -> None:  # type: ignore[no-untyped-def]
    names = iter("abcdefgh")
    chain = [Link(next(names), a, b) for a, b in itertools.pairwise(widths)]
    shuffled = chain.copy()
    random.shuffle(shuffled)
    every = [
        list(order)
        for order in itertools.permutations(chain)
        if all(a.outputs == b.inputs for a, b in itertools.pairwise(order))
    ]
    order = ordered(shuffled, as_stored=False)
    assert order == (every[0] if len(every) == 1 else None)
    assert ordered(chain, as_stored=True) == chain


def test_numbers_in_names_decide_where_widths_do_not() -> None:
    links = [Link(f"fc{i}", 8, 8) for i in range(40)] + [Link("out", 8, 2)]
    assert ordered(links[::-1][:1] + links[:-1], as_stored=False) == links


def test_the_search_gives_up_quickly_on_many_layers_of_one_width() -> None:
    links = [Link(chr(97 + i) * 3, 8, 8) for i in range(26)]
    assert ordered(links, as_stored=False) is None
    assert ordered([*links, Link("odd", 5, 6)], as_stored=False) is None
