"""Random values from which backward passes start."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from rmtcli.calibration import starts


@pytest.mark.parametrize("rows", [1, 15, 40, 200])
def test_values_of_class_scores_do_not_depend_on_how_many_are_computed_together(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = torch.randn(rows, 33, generator=torch.Generator().manual_seed(0))
    drawn = []
    for size in (1, 33 * 48, 2**22):
        monkeypatch.setattr(starts, "SLICE", size)
        generator = torch.Generator().manual_seed(1)
        drawn.append([starts.softmax_root(scores, generator), torch.rand(3, generator=generator)])
    assert all(map(torch.equal, drawn[0], drawn[2]))
    assert all(map(torch.equal, drawn[1], drawn[2]))


def test_values_of_class_scores_have_the_covariance_of_the_softmax() -> None:
    scores = torch.tensor([[0.5, -1.0, 2.0]]).expand(60_000, 3)
    values = starts.softmax_root(scores, torch.Generator().manual_seed(0)).double()
    p = scores[0].double().softmax(0)
    expected = torch.diag(p) - torch.outer(p, p)
    # An entry of the sample covariance has a standard error of about sqrt(2 / 60,000) × 0.2.
    torch.testing.assert_close(values.T @ values / len(values), expected, atol=0.01, rtol=0)
