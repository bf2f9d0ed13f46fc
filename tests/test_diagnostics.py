from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest

import rmtcli
from rmtcli.diagnostics import compare_vectors, diagnose
from rmtcli.edges import EDGES
from rmtcli.spectra import spectrum
from tests.conftest import SAMPLES, noise, planted


def of(weight: np.ndarray) -> dict[str, float | None]:
    s = spectrum(weight)
    return asdict(diagnose(s, EDGES.parse("bema").fit(s, weight)))


def test_each_figure_has_its_defined_value() -> None:
    w = planted((90, 60), 2, times=3.0, sigma=0.1)
    s, figures = np.linalg.svd(w)[1], of(w)
    shares = s**2 / (s**2).sum()
    assert figures["frobenius_norm"] == pytest.approx(np.linalg.norm(w))
    assert figures["spectral_norm"] == pytest.approx(s[0])
    assert figures["stable_rank"] == pytest.approx((s**2).sum() / s[0] ** 2)
    assert figures["spectral_entropy"] == pytest.approx(-(shares @ np.log(shares)) / math.log(60))
    law = EDGES.parse("bema").fit(spectrum(w), w).law
    assert figures["mp_soft_rank"] == pytest.approx(law.lambda_plus * 90 / s[0] ** 2)


@pytest.mark.parametrize("scale", [1e-120, 1e120])
def test_shape_does_not_depend_on_scale_or_orientation(scale: float) -> None:
    w = planted((90, 60), 2, times=3.0)
    one, other = of(w), of(scale * w.T)
    for name in ("tail_x_min", "frobenius_norm", "spectral_norm"):
        one.pop(name)
        other.pop(name)
    assert other == pytest.approx(one, rel=1e-6)


def test_a_matrix_of_equal_singular_values_has_no_tail() -> None:
    figures = of(np.eye(40))
    assert figures["tail_alpha"] is None
    assert figures["hill_alpha"] is None
    assert figures["tail_count"] == 0
    assert figures["stable_rank"] == pytest.approx(40)
    assert figures["spectral_entropy"] == pytest.approx(1)


def test_a_single_singular_value() -> None:
    figures = of(np.ones((1, 5)))
    assert figures["stable_rank"] == figures["spectral_entropy"] == 1
    assert figures["spectral_norm"] == pytest.approx(math.sqrt(5))


@pytest.mark.parametrize("shape", [(120, 70), (70, 120), (80, 80)])
def test_vectors_are_assigned_to_the_sides_of_the_layer(shape: tuple[int, int]) -> None:
    """A spike whose output vector has two large entries and whose input vector is random."""
    out = np.zeros(shape[0])
    out[[3, 5]] = 1
    into = np.random.default_rng(0).standard_normal(shape[1])
    w = (noise(shape) + 10 * np.outer(out, into)).astype(np.float32)
    compared = compare_vectors(w, spectrum(w, vectors=True), 1)
    assert compared.out[0] < 1e-6
    assert compared.into[0] > 0.01  # of a draw that is fixed
    with pytest.raises(ValueError, match="vectors"):
        compare_vectors(w, spectrum(w), 1)


def test_vectors_of_trained_spikes_differ_from_noise_and_planted_ones_do_not() -> None:
    """Planted directions are random and look like noise; those of a network do not."""
    shares = {}
    for name in ("planted.safetensors", "mnist_mlp.safetensors"):
        p: list[float] = []
        for layer in rmtcli.analyze(SAMPLES / name).to_dict()["layers"]:
            table = layer["spike_table"]
            if layer["p"] >= 64:
                p += table["porter_thomas_out"] + table["porter_thomas_in"]
            assert len(table["porter_thomas_in"]) == layer["spikes"]
        shares[name] = np.mean(np.array(p) < 0.01)
    # 30 values: of noise, more than 2 in a hundred are as small with chance 0.003.
    assert shares["planted.safetensors"] <= 2 / 30
    assert shares["mnist_mlp.safetensors"] > 0.5


def test_pruning_reports_diagnostics_too() -> None:
    report = rmtcli.prune(SAMPLES / "planted.safetensors", dry_run=True).to_dict()
    alone = rmtcli.analyze(SAMPLES / "planted.safetensors").to_dict()
    for one, other in zip(report["layers"], alone["layers"], strict=True):
        assert one["diagnostics"] == pytest.approx(other["diagnostics"], rel=1e-6)
        tables = [layer["spike_table"]["porter_thomas_in"] for layer in (one, other)]
        assert tables[0] == pytest.approx(tables[1])
