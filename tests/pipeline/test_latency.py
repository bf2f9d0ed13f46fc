"""Times: a line through what was measured, measurements themselves, and budgets of time."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rmtcli
from rmtcli.errors import UsageError
from rmtcli.layers import Layer, Selection
from rmtcli.layouts import Factored, Layout, Pivoted
from rmtcli.planning import Budget, Fitted, Goal, Latency, Times, Timing
from rmtcli.planning.allocate import RankOptions, allocate
from rmtcli.planning.allocation import _timed
from rmtcli.report.formatting import time_change, timing
from rmtcli.report.record import times_of
from rmtcli.report.summary import summary
from rmtcli.report.totals import totals
from rmtcli.running.clock import Clock, timed
from tests.conftest import DIGITS, SAMPLES, Run

DEEP = DIGITS / "digits.pt"
#: Losses of all 200 directions of a layer.
LOSSES = SimpleNamespace(losses=np.ones(200))


@given(
    fixed=st.floats(0, 1e-3),
    step=st.floats(1e-9, 1e-5),
    ranks=st.lists(st.integers(1, 2000), min_size=2, max_size=6, unique=True),
)
def test_a_fit_recovers_the_line(fixed: float, step: float, ranks: list[int]) -> None:
    result = Times.fit(1.0, ranks, [fixed + step * rank for rank in ranks])
    for rank in ranks:
        assert result.fixed + result.step * rank == pytest.approx(fixed + step * rank, rel=1e-6)


@given(seconds=st.lists(st.floats(1e-6, 1), min_size=2, max_size=6))
def test_no_layer_becomes_faster_by_a_larger_rank(seconds: list[float]) -> None:
    result = Times.fit(1.0, range(1, len(seconds) + 1), seconds)
    assert result.fixed >= 0
    assert result.step >= 0
    assert result.fixed + result.step > 0


def test_timed_functions_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only the functions move: their own times come out, whatever the machine does."""
    now, calls = 0.0, ""

    def work(name: str, seconds: float) -> None:
        nonlocal now, calls
        now += seconds
        calls += name

    monkeypatch.setattr("rmtcli.running.clock.time.perf_counter", lambda: now)
    short, long = timed([lambda: work("a", 0.004), lambda: work("b", 0.02)], "cpu")
    assert (short.low, short.median, short.high) == pytest.approx((0.004,) * 3)
    assert long.median == pytest.approx(0.02)
    assert "aba" in calls


def layer(shape: tuple[int, int], dtype: str = "F32") -> Layer:
    """A layer that is never read."""
    return Layer("a.weight", shape, dtype, lambda: pytest.fail("the weight was read"))


@pytest.mark.parametrize("layout", [Factored(), Pivoted()], ids=["factored", "pivoted"])
def test_each_shape_and_type_is_timed_once(layout: Layout) -> None:
    clock = Clock(3, "cpu")
    first = clock.pair(layer((40, 60)), layout, 5)
    assert clock.pair(layer((40, 60)), layout, 5) is first
    dense = clock.pair(layer((40, 60), "BF16"), layout, None)
    assert dense[0] is dense[1]
    assert 0 < dense[0].low <= dense[0].median <= dense[0].high
    assert clock.times(layer((2, 3), "F64"), layout).dense > 0  # one rank is all there is


def test_a_calibrated_layer_is_timed_on_the_rows_of_its_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows: list[int] = []

    def times(runs: list[partial[torch.Tensor]], device: str) -> list[Timing]:
        rows.extend({len(run.args[0]) for run in runs})
        return [Timing(1.0, 1.0, 1.0)] * len(runs)

    monkeypatch.setattr("rmtcli.running.clock.timed", times)
    clock = Clock(4, "cpu", lambda layer: 12.5 if layer.name == "a.weight" else 1.0)
    clock.pair(layer((40, 60)), Factored(), 5)
    clock.times(layer((40, 60)), Factored())
    assert rows == [50, 50]


@pytest.mark.parametrize(
    ("given", "unit", "side", "multiple"),
    [(None, "ms", 64, 8), (None, "ms", 63, 1), (None, "macs", 64, 1), (5, "ms", 64, 5)],
)
def test_ranks_under_a_budget_of_time_are_multiples_of_eight(
    given: int | None, unit: str, side: int, multiple: int
) -> None:
    assert Goal("auto", Budget("50%", unit), None, given, batch=1).multiple(side) == multiple


def test_ranks_that_save_no_more_than_noise_save_nothing() -> None:
    """A layer of 100 ns, of which ranks take 10 ns and 1 ns per rank; 96 ns is within the noise."""
    item = cast(Fitted, SimpleNamespace(layer=layer((300, 200)), approximation=LOSSES))
    costs = _timed(item, Factored(), lambda *_: Times(1e-7, 1e-8, 1e-9 / 500))
    assert costs[40] == 50
    assert costs[86] >= 100 > costs[84]


def test_slower_layers_are_listed() -> None:
    one, two = Timing(1.0, 0.75, 1.5), Timing(2.0, 1.75, 2.5)
    noisy = Timing(1.5, 1.25, 1.9)
    layers = {"a": (one, two), "b": (two, one), "c": (one, one), "d": (one, noisy)}
    result = Latency(1, "cpu", 2, layers)
    assert result.slower == ("a",)
    assert result.total == (Timing(5.0, 4.0, 7.0), Timing(5.5, 4.5, 7.4))
    assert result.ratio == 1.1
    whole = Latency(1, "cpu", 2, {}, (two, one))
    assert (whole.ratio, whole.total) == (0.5, (Timing(0, 0, 0),) * 2)
    assert Latency(1, "cpu", 2, {}).ratio is None


def test_times_are_shown_with_their_quartiles() -> None:
    fast, slow = Timing.of([0.001, 0.002, 0.003, 0.004, 0.1]), Timing.of([0.5] * 3)
    assert fast == Timing(0.003, 0.002, 0.004)
    assert timing(fast) == "3 ms [2–4]"
    assert time_change(slow, fast) == "-99 %"
    assert time_change(fast, Timing(0.0033, 0.0029, 0.005)) == "+10 %, within their spread"
    assert times_of(fast, slow) == {
        "before": 0.003,
        "after": 0.5,
        "ratio": 0.5 / 0.003,
        "before_quartiles": [0.002, 0.004],
        "after_quartiles": [0.5, 0.5],
    }


def test_an_allocation_counts_the_fixed_time_of_two_factors() -> None:
    losses = np.array([8.0, 4.0, 2.0, 1.0])
    cheap = RankOptions(losses, 10 * np.arange(5), 100)
    slow = RankOptions(losses, 75 + 10 * np.arange(4), 100)
    assert cheap.least == 10
    assert slow.least == 85
    assert list(slow.ranks) == [1, 2]
    assert allocate([cheap, slow], 95) == [1, 1]
    assert allocate([cheap, slow], 120) == [2, None]  # loses 3; 30 + 85 would lose 1 + 7
    assert allocate([RankOptions(losses, 100 + 10 * np.arange(5), 100)], 100) == [None]
    with pytest.raises(ValueError, match="smallest ranks cost 85"):
        allocate([slow], 84)


def test_a_budget_of_time_is_a_share_or_milliseconds() -> None:
    assert Budget("50%", "ms").amount(2_000_000) == 1_000_000
    assert Budget("0.5", "ms").amount(2_000_000) == 500_000
    with pytest.raises(UsageError, match=r"between 0 and the model's 2 ms"):
        Budget("3", "ms").amount(2_000_000)


@pytest.mark.usefixtures("steady")
def test_a_report_has_times_of_layers_and_of_the_network() -> None:
    report = rmtcli.prune(
        DEEP,
        budget=Budget("60%", "ms"),
        batches=(64, 1),
        evaluation=rmtcli.Evaluation(DIGITS / "digits.npz"),
        dry_run=True,
    )
    assert [result.batch for result in report.latency] == [1, 64]
    at_budget = report.latency[1]
    assert at_budget.network is not None
    before, after = at_budget.total
    assert (before.low, before.median, before.high) == (4.5, 5.0, 6.0)
    # On this clock two factors of any rank take a tenth of the dense layer.
    factored = len(report.pruned)
    assert factored >= 2
    assert after.median == pytest.approx(5 - 0.9 * factored)
    assert after.median <= 0.6 * before.median
    assert set(at_budget.layers) == {plan.layer.name for plan in report.layers}
    assert at_budget.layers["fc5.weight"][0] == at_budget.layers["fc5.weight"][1]
    texts = [text for label, text in summary(report) if label == "latency"]
    assert len(texts) == 2
    times = [f"{1000 * x:,.0f}" for x in (after.median, after.low, after.high)]
    change = f"5,000 ms [4,500–6,000] → {times[0]} ms [{times[1]}–{times[2]}] "
    assert texts[1].startswith(f"linear layers {change}")
    assert "; network " in texts[1]
    assert sum(label.startswith("time of the network") for label, *_ in totals(report)) == 2


def test_analyze_times_what_auto_would_do() -> None:
    (result,) = rmtcli.analyze(SAMPLES / "planted.safetensors", batches=[8]).latency
    assert len(result.layers) == 5
    assert result.network is None


def test_convolutions_are_not_timed(tmp_path: Path) -> None:
    torch.save(
        {"c.weight": torch.randn(64, 32, 3, 3), "f.weight": torch.randn(80, 90)}, tmp_path / "c.pt"
    )
    wide = Selection(convolutions=True)
    (result,) = rmtcli.analyze(tmp_path / "c.pt", selection=wide, batches=[2]).latency
    assert set(result.layers) == {"f.weight"}
    budget = Budget("50%", "ms")
    with pytest.raises(UsageError, match="is a convolution"):
        rmtcli.prune(tmp_path / "c.pt", budget=budget, batches=[2], selection=wide)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--budget-latency", "50%"), "give --batch"),
        (("--budget-latency", "50%", "--budget", "50%"), "exclude one another"),
        (("--batch", "1", "--device", "nowhere"), "device 'nowhere' cannot be used"),
        (("--budget-latency", "0.001%", "--batch", "1"), "cannot be met"),
    ],
)
def test_what_cannot_be_timed_is_reported(
    workdir: Path, rmtcli: Run, arguments: tuple[str, ...], message: str
) -> None:
    data = ("--data", "sample_models/mnist.npz")
    done = rmtcli("prune", "sample_models/mnist_deep.pt", *arguments, *data)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("sample_models/mnist_deep.pruned.pt").exists()


def test_a_condition_on_time(workdir: Path, rmtcli: Run) -> None:
    arguments = ("prune", "sample_models/mnist_deep.pt", "--batch", "64", "--json", "--dry-run")
    done = rmtcli(*arguments, "--fail-if", "latency.ratio > 0.0001")
    assert done.returncode == 1
    assert "latency.ratio is" in done.stderr
    result = json.loads(done.stdout)["latency"][0]
    assert result["layers"]["ratio"] == result["layers"]["after"] / result["layers"]["before"]
    unmeasured = rmtcli(*arguments[:2], "--fail-if", "latency.ratio > 1", "--dry-run")
    assert unmeasured.returncode == 2
