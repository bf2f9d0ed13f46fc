"""Look-up tables are calibrated like linear layers with one-hot inputs, with heads tied to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rmtcli
from rmtcli.calibration import Moments, decompose, smoothed
from rmtcli.calibration.collect import collect
from rmtcli.calibration.measure import GRADIENT_FLOOR
from rmtcli.calibration.tables import with_heads
from rmtcli.checkpoint import open_checkpoint
from rmtcli.keep import Untouched
from rmtcli.layers import Layer, find_layers
from rmtcli.layouts import Factored
from rmtcli.layouts.module import float64_of
from rmtcli.planning import Budget
from rmtcli.report.base import Report
from rmtcli.running.modules import modules_of, scale_of

ROWS, WIDTH, RANK, LINES = 90, 24, 6, 120


class Scaled(nn.Embedding):
    """A table whose rows are multiplied by a number, as those of some transformers are."""

    def forward(self, tokens: Tensor) -> Tensor:
        return 3 * super().forward(tokens)


class Words(nn.Module):
    """A table, a layer, and a head over all tokens, which may be tied to the table."""

    def __init__(self, *, tied: bool = True, scaled: bool = False) -> None:
        super().__init__()
        self.embed = (Scaled if scaled else nn.Embedding)(ROWS, WIDTH, padding_idx=3)
        self.inner, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, ROWS, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(self.embed(tokens).mean(1))))


def untied() -> Words:
    return Words(tied=False)


def tokens(lines: int = LINES) -> np.ndarray:
    """Token numbers of which a third never comes, and padding at the end of each line."""
    rng = np.random.default_rng(0)
    numbers = np.minimum(rng.geometric(0.08, (lines, 8)) + 3, 60)
    numbers[:, -1] = 3
    return numbers


@pytest.mark.parametrize("gradients", [False, True], ids=["one-sided", "two-sided"])
@pytest.mark.parametrize(("tied", "scaled"), [(False, False), (True, False), (True, True)])
def test_the_predicted_loss_is_the_measured_one(tied: bool, scaled: bool, gradients: bool) -> None:
    torch.manual_seed(0)
    model = Words(tied=tied, scaled=scaled).double()
    seen: dict[str, list[np.ndarray]] = {"g": [], "s": [], "h": []}

    def keep(key: str, values: Tensor) -> None:
        seen[key].append(values.detach().flatten(0, -2).numpy())

    if gradients:  # each of a line's rows has the gradient of their mean, divided by their number
        model.inner.register_forward_pre_hook(
            lambda m, args: (
                args[0].register_hook(lambda g: keep("g", g / tokens().shape[1])) and None
            )
        )
    model.head.register_forward_hook(lambda m, args, out: keep("h", args[0]))
    names, x = ["embed", "head"] if tied else ["embed"], tokens()
    run = lambda network, inputs: network(inputs)  # noqa: E731
    if gradients:  # the scores' gradients are what the backward pass starts from
        run = lambda network, inputs: watched(network(inputs))  # noqa: E731

    def watched(outputs: Tensor) -> Tensor:
        outputs.register_hook(lambda s: keep("s", s))
        return outputs

    made = collect(model, x, names, run, batch=50, draws=2 * gradients)
    moments, scale = made["embed"], 3.0 if scaled else 1.0
    assert scale_of(model.embed) == pytest.approx(scale)
    assert moments.uses == x.shape[1]
    if tied:
        moments = with_heads(moments, [made["head"]], scale)
    weight = float64_of(model.embed.weight).T
    fit = decompose(weight, moments, bias=False, gradients=gradients)
    error = scale * (fit.factors(RANK).product - weight).T[x.ravel()]
    if gradients:
        g, s, h = (np.concatenate(seen[key]) for key in "gsh")
        metric = g.T @ g / len(g)
        if tied:
            metric += (s**2).sum(1).mean() * (h.T @ h / len(h)) / x.shape[1] / scale**2
        values, vectors = np.linalg.eigh(metric)
        error = error @ vectors * np.sqrt(np.maximum(values, GRADIENT_FLOOR * values[-1]))
    assert fit.loss(RANK) == pytest.approx(float((error**2).sum()) / len(x), rel=1e-6)
    assert 0 < fit.loss(RANK) < fit.loss(0)


def test_the_prior_is_worth_as_many_tokens_as_the_table_has_columns() -> None:
    rng = np.random.default_rng(0)
    table, rows = rng.standard_normal((50, 8)), 24
    z = table[rng.integers(0, 5, rows)]
    moments = Moments(rows, 3, z.mean(0), z.T @ z / rows, None, of_outputs=True)
    smooth = smoothed(moments, table.T)
    prior = table.T @ table
    prior *= np.trace(moments.second) / np.trace(prior)
    np.testing.assert_allclose(smooth.second, 0.75 * moments.second + 0.25 * prior)
    assert np.linalg.matrix_rank(moments.second) == 5
    assert np.linalg.eigvalsh(smooth.second)[0] > 0  # no direction is free to be lost


def prune(folder: Path, *, tied: bool = True, **options: Any) -> Report:
    """A network of words, pruned with calibration to a small table."""
    torch.manual_seed(0)
    torch.save(Words(tied=tied).state_dict(), folder / "a.pt")
    x = tokens()
    np.savez(folder / "d.npz", train_inputs=x, inputs=x)
    factory = "tests.calibration.test_tables:" + ("Words" if tied else "untied")
    own = {name: options.pop(name) for name in ("sequential", "heal") if name in options}
    options.setdefault("keep", f"rank:k={RANK}")
    return rmtcli.prune(
        folder / "a.pt",
        folder / "small.pt",
        selection=rmtcli.Selection(include=["embed.weight", "inner.weight"], embeddings=True),
        evaluation=rmtcli.Evaluation(folder / "d.npz", model=factory),
        calibration=options.pop("calibration", None) or rmtcli.Calibration(folder / "d.npz", **own),
        **options,
    )


@pytest.mark.parametrize("tied", [True, False])
def test_a_calibrated_table_moves_the_outputs_less(tmp_path: Path, tied: bool) -> None:
    calibrated, plain = (
        prune(tmp_path, tied=tied, calibration=calibration, force=True).comparison
        for calibration in (None, rmtcli.Calibration("none"))
    )
    assert calibrated is not None
    assert plain is not None
    assert calibrated.divergence < 0.8 * plain.divergence


def test_padding_stays_zero_and_no_token_is_lost(tmp_path: Path) -> None:
    report = prune(tmp_path)
    assert [plan.rank for plan in report.pruned] == [RANK, RANK]
    loaded = rmtcli.load(Words(), tmp_path / "small.pt")
    assert not loaded.embed(torch.tensor([3])).any()
    dense = torch.load(tmp_path / "a.pt")["embed.weight"]
    with torch.no_grad():
        kept = (loaded.embed.weight * dense).sum(1) / dense.square().sum(1)
    assert not kept[3] > 0
    others = kept[torch.arange(ROWS) != 3]
    assert float(others.min()) > 0  # tokens that never came included


def test_refinements_know_tables(tmp_path: Path) -> None:
    prune(tmp_path)
    planned = torch.load(tmp_path / "small.pt")
    prune(tmp_path, sequential=True, force=True)
    fitted = torch.load(tmp_path / "small.pt")
    torch.testing.assert_close(fitted["embed.0.weight"], planned["embed.0.weight"])
    for layout in ("factored", "pivoted"):
        report = prune(tmp_path, heal=5, layout=layout, force=True)
        healed = torch.load(tmp_path / "small.pt")
        assert not torch.equal(healed["embed.0.weight"], planned["embed.0.weight"])
        assert not healed["embed.0.weight"][3].any()
        assert report.calibrated is not None
        assert not report.calibrated.undone


@pytest.mark.parametrize("layout", ["pivoted", "auto"])
def test_tables_are_factors_where_a_layout_has_none_for_them(tmp_path: Path, layout: str) -> None:
    report = prune(tmp_path, keep="auto", budget=Budget("55%"), layout=layout)
    table = report.layers[0]
    assert table.layer.view.table
    assert table.untouched is None
    assert table.layout == Factored()
    assert report.parameters[1] <= 0.55 * report.parameters[0]


@pytest.mark.parametrize("budget", [Budget("80%", "macs"), Budget("100%", "ms")])
def test_budgets_of_work_leave_tables_as_they_are(tmp_path: Path, budget: Budget) -> None:
    report = prune(tmp_path, keep="auto", budget=budget, batches=[4])
    fates = {plan.layer.name: plan.untouched for plan in report.layers}
    assert fates["embed.weight"] is Untouched.BUDGET


def test_modules_that_share_a_table_are_known_whatever_the_file_names(tmp_path: Path) -> None:
    model = Words()
    state = {name: t for name, t in model.state_dict().items() if name != "head.weight"}
    torch.save(state, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    items = find_layers(checkpoint, rmtcli.Selection(embeddings=True, min_side=0))
    layers = [item for item in items if isinstance(item, Layer)]
    assert modules_of(model, checkpoint, layers)["embed.weight"] == ["embed", "head"]
