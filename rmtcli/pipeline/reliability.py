"""How far the moments of a run can be trusted, for its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rmtcli.calibration import CLEANERS, Calibrated, Reliability, assess_moments, held_out_loss
from rmtcli.planning import LayerCalibration, LayerPlan


def reliability_of(
    calibrated: Calibrated,
    calibrations: Mapping[str, LayerCalibration],
    plans: Sequence[LayerPlan],
) -> Reliability:
    """How far the moments can be trusted at the ranks that were chosen.

    Losses are measured on layers of which samples were kept apart, that have factors of their own,
    and whose hidden layers keep their width.

    Args:
        calibrated: the settings of the calibration.
        calibrations: the calibration of each layer, by name.
        plans: the plans of all layers.
    """
    cleaner = CLEANERS.parse(calibrated.settings.clean)

    def loss(plan: LayerPlan, known: LayerCalibration | None) -> tuple[float, float] | None:
        own = plan.ranked and plan.group is None and plan.narrowed is None
        if known is None or known.raw is None or not own:
            return None
        options = {"bias": known.bias, "gradients": known.gradients}
        return held_out_loss(plan.layer.load(), plan.rank, known.raw, cleaner, **options)

    losses = [loss(plan, calibrations.get(plan.layer.name)) for plan in plans]
    return assess_moments([known.moments for known in calibrations.values()], losses)
