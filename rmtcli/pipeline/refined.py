"""The results of healing, as factors and as tensors of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint.names import factors_of, unit_of
from rmtcli.options import option
from rmtcli.planning import LayerPlan
from rmtcli.spectra import Factors


def on_undone(name: str) -> str:
    """The note on a refinement that was undone, by the name of its option."""
    return (
        f"{option(name)} was undone: on held-out inputs it made the network differ more from the "
        "dense network"
    )


def in_layout(
    values: Mapping[str, FloatArray], plans: Sequence[LayerPlan]
) -> tuple[dict[str, Factors], dict[str, FloatArray]]:
    """The trained values of a network whose layers are split in two factors, in their layouts.

    Args:
        values: by the names of the split network.
        plans: the layers, with the factors that were trained.

    Returns:
        Factors by layer name, and the values of all other tensors by the names of the layouts.
    """
    factors, others = dict[str, Factors](), dict(values)
    for plan in plans:
        assert plan.factors is not None
        for weight in (plan.layer.tensor, *plan.layer.tied):
            right, left, bias = factors_of(unit_of(weight))
            if left in others:  # a directory does not hold names that are tied to a table's
                sides = plan.layer.view.matrices(others.pop(left), others.pop(right))
                factors[plan.layer.name] = Factors(*sides, plan.factors.shift)
            if bias in others:
                others[plan.layout.bias_name(weight)] = others.pop(bias)
    return factors, others
