"""The last fit of a layer, which a pruner keeps between two calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rmtcli.arrays import FloatArray
from rmtcli.edges import EdgeEstimator, EdgeFit, Verdict
from rmtcli.edges.base import Noise
from rmtcli.edges.truncated import follow
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.spectra import Spectrum


@dataclass(slots=True, eq=False)
class LastFit:
    """The last fit of a layer.

    Attributes:
        fit: the fit; None before the first one.
        spikes: number of eigenvalues above its edge.
        cut: rank that the layer was truncated to afterwards; None for a layer that is whole.
    """

    fit: EdgeFit | None = None
    spikes: int = 0
    cut: int | None = None

    def refit(
        self, spectrum: Spectrum, weight: Callable[[], FloatArray], edge: EdgeEstimator
    ) -> EdgeFit:
        """Fit a whole weight; carry the last fit over to a weight that was truncated.

        Args:
            spectrum: the layer's spectrum now.
            weight: function that gives the weight, shape (out, in).
            edge: the edge estimator.
        """
        if self.fit is None or self.cut is None:
            self.fit = edge.fit(spectrum, weight())
        else:
            self.fit = follow(self.fit, spectrum, self.cut, self.spikes)
        self.spikes = spectrum.count_above(self.fit.edge)
        return self.fit

    def state(self) -> dict[str, Any]:
        """Return the fit as plain numbers and text, for a state dict."""
        fit = self.fit
        return {
            "spikes": self.spikes,
            "cut": self.cut,
            "fit": fit
            and {
                "gamma": fit.law.gamma,
                "sigma": fit.law.sigma,
                "edge": fit.edge,
                "ks_distance": fit.ks_distance,
                "verdict": fit.verdict.name,
                "one_variance": fit.one_variance,
                **asdict(fit.noise),
            },
        }

    @staticmethod
    def of(state: Mapping[str, Any]) -> LastFit:
        """Return the fit from the result of :meth:`state`."""
        saved = state["fit"]
        fit = saved and EdgeFit(
            MarchenkoPastur(saved["gamma"], saved["sigma"]),
            saved["edge"],
            saved["ks_distance"],
            Verdict[saved["verdict"]],
            Noise(saved["top"], saved["scale"]),
            one_variance=saved["one_variance"],
        )
        return LastFit(fit, state["spikes"], state["cut"])
