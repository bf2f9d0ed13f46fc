from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmtcli.checkpoint import encode
from rmtcli.edges import EDGES
from rmtcli.keep import Untouched
from rmtcli.layers import Layer
from rmtcli.layouts import Factored
from rmtcli.planning import LayerPlan, fit_layer, plan_layer
from rmtcli.report.sparkline import CELLS, sparkline
from tests.conftest import noise, planted


def plan_of(weight: np.ndarray) -> LayerPlan:
    shape = (weight.shape[0], weight.shape[1])
    fitted = fit_layer(
        Layer("w", shape, "F64", lambda: encode(weight, "F64")), EDGES.parse("select")
    )
    return plan_layer(fitted, Untouched.HEAD, layout=Factored())  # type: ignore[arg-type]


def test_only_spikes_are_to_the_right_of_the_edge() -> None:
    left, right = sparkline(plan_of(planted((300, 200), 3, times=3)))
    assert len(left) + len(right) == CELLS
    assert right.strip()
    assert right[-1] != " "  # the largest eigenvalue ends the axis
    assert max(left) == "█"


def test_without_spikes_all_bars_are_below_the_edge() -> None:
    left, right = sparkline(plan_of(noise((400, 100))))
    assert (len(left), right) == (CELLS, "")


@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    rank=st.integers(0, 3),
    scale=st.sampled_from([1e-20, 1.0, 1e20]),
    cells=st.integers(2, 40),
)
def test_a_line_has_the_length_that_was_asked_for(
    shape: tuple[int, int], rank: int, scale: float, cells: int
) -> None:
    weight = scale * planted(shape, min(rank, *shape), times=5)
    left, right = sparkline(plan_of(weight), cells)
    assert len(left + right) == cells
    assert set(left + right) <= set(" ▁▂▃▄▅▆▇█")
    assert "█" in left + right


@pytest.mark.parametrize("weight", [np.eye(50), np.ones((40, 30)), 2 * np.eye(30, 60)])
def test_degenerate_layers_have_a_line(weight: np.ndarray) -> None:
    left, right = sparkline(plan_of(weight))
    assert "█" in left + right
