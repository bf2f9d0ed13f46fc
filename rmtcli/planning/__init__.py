"""The rank of each layer: fits, keep rules, budgets, limits, and plans as files.

Everything here is a decision: no function runs a network or writes a checkpoint. A stage of a run
takes its values from the stage before: layers are fitted (:func:`fit_layer`), a
:data:`RankChooser` chooses their ranks, and :func:`plan_layer` decides what is done with each.
"""

from rmtcli.planning.allocate import divide
from rmtcli.planning.allocation import (
    Allocation,
    Division,
    allocation_of,
    timed_allocation,
    uncalibrated,
)
from rmtcli.planning.bits import BITS, SAFE, BitAllocation, BitChoices
from rmtcli.planning.budget import Budget
from rmtcli.planning.choose import (
    RankChooser,
    by_plan,
    by_ranks,
    by_rule,
    nothing_within,
    size_within,
)
from rmtcli.planning.fit import (
    Approximation,
    Decomposer,
    Fitted,
    LayerCalibration,
    Plain,
    fit_layer,
)
from rmtcli.planning.goal import Goal
from rmtcli.planning.guard import (
    CONFIDENCE,
    Drop,
    Guard,
    Range,
    paired_drop,
    rise_of_perplexity,
    score_drop,
    smallest,
)
from rmtcli.planning.hidden import HiddenLayer, HiddenLayers, NarrowNetwork
from rmtcli.planning.mixed import CutLayers, Design, MixedAllocation
from rmtcli.planning.plan import LayerPlan, plan_layer
from rmtcli.planning.plan_apply import calibration_of, check_plan, plan_of, widths_of
from rmtcli.planning.plan_file import Plan
from rmtcli.planning.rounded_layer import Matrices, Metric, round_matrices, round_rows
from rmtcli.planning.rounding_loss import RoundingLoss, Trial, measure
from rmtcli.planning.siblings import approximated, sibling_groups
from rmtcli.planning.soft_drop import Margins, soft_drop
from rmtcli.planning.stored import StoredDecomposition, factor_type
from rmtcli.planning.times import Latency, Times, Timing
from rmtcli.planning.widths import WidthAllocation

__all__ = [
    "BITS",
    "CONFIDENCE",
    "SAFE",
    "Allocation",
    "Approximation",
    "BitAllocation",
    "BitChoices",
    "Budget",
    "CutLayers",
    "Decomposer",
    "Design",
    "Division",
    "Drop",
    "Fitted",
    "Goal",
    "Guard",
    "HiddenLayer",
    "HiddenLayers",
    "Latency",
    "LayerCalibration",
    "LayerPlan",
    "Margins",
    "Matrices",
    "Metric",
    "MixedAllocation",
    "NarrowNetwork",
    "Plain",
    "Plan",
    "Range",
    "RankChooser",
    "RoundingLoss",
    "StoredDecomposition",
    "Times",
    "Timing",
    "Trial",
    "WidthAllocation",
    "allocation_of",
    "approximated",
    "by_plan",
    "by_ranks",
    "by_rule",
    "calibration_of",
    "check_plan",
    "divide",
    "factor_type",
    "fit_layer",
    "measure",
    "nothing_within",
    "paired_drop",
    "plan_layer",
    "plan_of",
    "rise_of_perplexity",
    "round_matrices",
    "round_rows",
    "score_drop",
    "sibling_groups",
    "size_within",
    "smallest",
    "soft_drop",
    "timed_allocation",
    "uncalibrated",
    "widths_of",
]
