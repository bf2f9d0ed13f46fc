"""Siblings: layers that read the same input, and so may share a right factor."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace

from rmtcli.layers import Skipped
from rmtcli.layouts import Layout
from rmtcli.planning.fit import Fitted, LayerCalibration


def sibling_groups(
    fitted: Sequence[Fitted],
    calibrations: Mapping[str, LayerCalibration],
    taken: Collection[str],
    layout: Layout,
) -> dict[str, str]:
    """For each layer that has siblings, the name of the first of its group, perhaps its own.

    Calibration keeps the moments of a tensor once, for all layers that read it: siblings are
    recognised by holding the same array. They must be stored in one type, and either all or none
    have a bias. A tied weight keeps factors of its own.

    Args:
        fitted: layers in order.
        calibrations: their calibrations by name.
        taken: names of tensors in the checkpoint, which factors must not take.
        layout: how compressed layers are stored.
    """
    groups: dict[Hashable, list[str]] = {}
    for item in fitted:
        layer, seen = item.layer, calibrations.get(item.layer.name)
        free = not layer.tied and layout.supports(layer)
        if seen is not None and free and layout.new_names(layer).isdisjoint(taken):
            key = (id(seen.moments.second), seen.bias, seen.gradients, layer.dtype)
            groups.setdefault(key, []).append(layer.name)
    return {name: names[0] for names in groups.values() for name in names if len(names) > 1}


def approximated(
    fits: Sequence[Fitted | Skipped],
    calibrations: Mapping[str, LayerCalibration],
    groups: Mapping[str, str],
) -> list[Fitted | Skipped]:
    """The layers with their approximations; siblings have one right factor.

    Args:
        fits: layers without approximations.
        calibrations: by layer name; a layer that is missing gets no approximation.
        groups: as :func:`sibling_groups` returns them.
    """
    from rmtcli.calibration import decompose_together

    members: dict[str, list[Fitted]] = {}
    for item in fits:
        if isinstance(item, Fitted) and item.layer.name in calibrations:
            members.setdefault(groups.get(item.layer.name, item.layer.name), []).append(item)
    results: dict[str, Fitted] = {}
    for items in members.values():
        seen = [calibrations[item.layer.name] for item in items]
        made = decompose_together(
            [item.layer.load() for item in items],
            [calibration.moments for calibration in seen],
            bias=seen[0].bias,
            gradients=seen[0].gradients,
            eigh=seen[0].eigh,
        )
        for item, approximation in zip(items, made, strict=True):
            name = item.layer.name
            results[name] = replace(item, approximation=approximation, group=groups.get(name))
    return [
        results.get(item.layer.name, item) if isinstance(item, Fitted) else item for item in fits
    ]
