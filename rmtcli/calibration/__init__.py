"""Calibration: moments of a network's layers, and the best low-rank maps in their metric.

``collect`` takes the moments of each layer's inputs and output gradients through torch hooks;
:mod:`rmtcli.running` calls it. Nothing else here needs torch. Gradients start from random
cotangents whose covariance is the Fisher matrix of the logits, so that calibration needs no labels.
Layers that read the same tensor share the arrays of its moments, in memory and in a file of
statistics, and that is how siblings are recognised. Statistics carry the hash of the checkpoint
file, because they depend on every weight in it.
"""

from rmtcli.calibration.base import Calibrated, Calibration
from rmtcli.calibration.clean import CLEANERS, Cleaner, clean_moments
from rmtcli.calibration.folder import Folder
from rmtcli.calibration.given import given_inputs
from rmtcli.calibration.heads import HeadNarrowing, narrow_queries, narrow_values
from rmtcli.calibration.measure import Eigh
from rmtcli.calibration.metric import (
    MetricDecomposition,
    decompose,
    decompose_together,
    metric_losses,
    redirect,
    whitened,
    whole_loss,
)
from rmtcli.calibration.moments import ByLayer, Moments
from rmtcli.calibration.narrow import Narrowing, Reader, narrow_units
from rmtcli.calibration.on_demand import OnDemand
from rmtcli.calibration.reliability import (
    Reliability,
    assess_moments,
    held_out_loss,
)
from rmtcli.calibration.source import (
    NONE,
    SOURCES,
    Data,
    FileShare,
    GivenInputs,
    MadeInputs,
    Prose,
    RandomTokens,
    data_sha256,
    files_in,
    files_of,
    is_made,
    parts_of,
    spelled,
)
from rmtcli.calibration.stats import Origin, read_stats, write_stats
from rmtcli.calibration.stored import StoredMoments
from rmtcli.calibration.tables import smoothed

__all__ = [
    "CLEANERS",
    "NONE",
    "SOURCES",
    "ByLayer",
    "Calibrated",
    "Calibration",
    "Cleaner",
    "Data",
    "Eigh",
    "FileShare",
    "Folder",
    "GivenInputs",
    "HeadNarrowing",
    "MadeInputs",
    "MetricDecomposition",
    "Moments",
    "Narrowing",
    "OnDemand",
    "Origin",
    "Prose",
    "RandomTokens",
    "Reader",
    "Reliability",
    "StoredMoments",
    "assess_moments",
    "clean_moments",
    "data_sha256",
    "decompose",
    "decompose_together",
    "files_in",
    "files_of",
    "given_inputs",
    "held_out_loss",
    "is_made",
    "metric_losses",
    "narrow_queries",
    "narrow_units",
    "narrow_values",
    "parts_of",
    "read_stats",
    "redirect",
    "smoothed",
    "spelled",
    "whitened",
    "whole_loss",
    "write_stats",
]
