"""Estimators of the edge between noise and signal, one published method a file."""

from rmtcli.edges import bema, dyson, kritchman_nadler, median, mp_pca, screenot, select, sign_flip
from rmtcli.edges.base import EDGES, EdgeEstimator, EdgeFit, Verdict

__all__ = [
    "EDGES",
    "EdgeEstimator",
    "EdgeFit",
    "Verdict",
    "bema",
    "dyson",
    "kritchman_nadler",
    "median",
    "mp_pca",
    "screenot",
    "select",
    "sign_flip",
]
