"""Estimators of the edge between noise and signal, one published method a file."""

from rmtcli.edges import (
    bema,
    bema_gamma,
    dyson,
    kritchman_nadler,
    median,
    mp_pca,
    screenot,
    select,
    sign_flip,
)
from rmtcli.edges.base import EDGES, EdgeEstimator, EdgeFit, Verdict

__all__ = [
    "EDGES",
    "EdgeEstimator",
    "EdgeFit",
    "Verdict",
    "bema",
    "bema_gamma",
    "dyson",
    "kritchman_nadler",
    "median",
    "mp_pca",
    "screenot",
    "select",
    "sign_flip",
]
