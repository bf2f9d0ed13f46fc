"""Estimators of the edge between noise and signal, one published method per file.

An estimator gets the spectrum of a weight and the weight itself, and returns an ``EdgeFit``: the
fitted law of the noise, the threshold above it, and a ``Verdict`` on whether the fit can be
trusted. It never raises on a valid layer, since a layer that no law fits is a verdict. Every
threshold is an eigenvalue of WᵀW/n, so that the law of the noise does not depend on the size of a
layer. ``judge`` makes the verdicts of all estimators, ``variances`` looks at single rows, columns
and entries, and ``truncated`` follows the edge of a weight that was cut before. The equations are
in :mod:`rmtcli.law`.
"""

from rmtcli.edges.base import EDGES, EdgeEstimator, EdgeFit, Verdict

__all__ = ["EDGES", "EdgeEstimator", "EdgeFit", "Verdict"]
