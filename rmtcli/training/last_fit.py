"""What a pruner remembers of a layer between two calls."""

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
class Memory:
    """The last fit of a layer.

    Attributes:
        fit: the fit, or None before the first.
        spikes: eigenvalues above its edge.
        cut: the rank that the layer was cut to since, or None while it is whole.
    """

    fit: EdgeFit | None = None
    spikes: int = 0
    cut: int | None = None

    def refit(
        self, spectrum: Spectrum, weight: Callable[[], FloatArray], edge: EdgeEstimator
    ) -> EdgeFit:
        """The fit of a whole weight; of one that was cut, the last fit, carried over."""
        if self.fit is None or self.cut is None:
            self.fit = edge.fit(spectrum, weight())
        else:
            self.fit = follow(self.fit, spectrum, self.cut, self.spikes)
        self.spikes = spectrum.count_above(self.fit.edge)
        return self.fit

    def state(self) -> dict[str, Any]:
        """Plain numbers and text."""
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
    def of(state: Mapping[str, Any]) -> Memory:
        """The memory that :meth:`state` tells of."""
        found = state["fit"]
        fit = found and EdgeFit(
            MarchenkoPastur(found["gamma"], found["sigma"]),
            found["edge"],
            found["ks_distance"],
            Verdict[found["verdict"]],
            Noise(found["top"], found["scale"]),
            one_variance=found["one_variance"],
        )
        return Memory(fit, state["spikes"], state["cut"])
