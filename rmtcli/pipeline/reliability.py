"""How far the moments of a run can be trusted, for its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rmtcli.calibration import CLEANERS, Calibrated, Reliability, assess_moments, held_out_loss
from rmtcli.planning import LayerCalibration, LayerPlan


def with_reliability(
    calibrated: Calibrated | None,
    calibrations: Mapping[str, LayerCalibration] | None,
    plans: Sequence[LayerPlan],
    undone: tuple[str, ...],
) -> Calibrated | None:
    """The record of a calibration, with how far its moments can be trusted for these plans.

    Args:
        calibrated: the record; None without calibration.
        calibrations: the calibration of each layer, by name; None without calibration.
        plans: the plans of all layers.
        undone: the refinements that were undone.
    """
    if calibrated is None or calibrations is None:
        return None
    known = _reliability_of(calibrated, calibrations, plans)
    return replace(calibrated, undone=undone, reliability=known)


def _reliability_of(
    calibrated: Calibrated,
    calibrations: Mapping[str, LayerCalibration],
    plans: Sequence[LayerPlan],
) -> Reliability:
    """How far the moments can be trusted at the ranks that were chosen.

    Losses are measured on layers of which samples were kept apart, that have factors of their own,
    and whose hidden layers keep their width.
    """
    cleaner = CLEANERS.parse(calibrated.settings.clean)

    def loss(plan: LayerPlan, known: LayerCalibration | None) -> tuple[float, float] | None:
        own = plan.ranked and plan.group is None and plan.narrowed is None
        if known is None or known.raw is None or not own:
            return None
        options = {"bias": known.bias, "gradients": known.gradients}
        return held_out_loss(plan.layer.load(), plan.rank, known.raw, cleaner, **options)

    losses = [loss(plan, calibrations.get(plan.layer.name)) for plan in plans]
    return assess_moments((known.moments for known in calibrations.values()), losses)
