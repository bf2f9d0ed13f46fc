"""Layers that read one input, and so may share a right factor."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace

from rmtcli.calibration import decompose_together
from rmtcli.layers import Skipped
from rmtcli.layouts import Layout
from rmtcli.planning.fit import Fitted, LayerCalibration


def sibling_groups(
    fitted: Sequence[Fitted],
    data: Mapping[str, LayerCalibration],
    taken: Collection[str],
    layout: Layout,
) -> dict[str, str]:
    """For each layer that has siblings, the name of the first of them, perhaps its own.

    Calibration keeps the moments of one tensor once, whoever reads it: siblings are known by
    holding the same array. They must be stored in one type, and have a bias each or none. A weight
    under several names keeps factors of its own.

    Args:
        fitted: layers in order.
        data: what calibration found out about them.
        taken: tensor names that factors must not take.
        layout: how they are to be stored.
    """
    groups: dict[Hashable, list[str]] = {}
    for item in fitted:
        layer, seen = item.layer, data.get(item.layer.name)
        free = not layer.aliases and layout.supports(layer)
        if seen is not None and free and layout.new_names(layer).isdisjoint(taken):
            key = (id(seen.moments.second), seen.bias, seen.gradients, layer.dtype)
            groups.setdefault(key, []).append(layer.name)
    return {name: names[0] for names in groups.values() for name in names if len(names) > 1}


def approximated(
    fits: Sequence[Fitted | Skipped],
    data: Mapping[str, LayerCalibration],
    groups: Mapping[str, str],
) -> list[Fitted | Skipped]:
    """All layers with their approximations, those of siblings with one right factor.

    Args:
        fits: layers without approximations.
        data: what calibration found out about them; a layer that is missing gets none.
        groups: as :func:`sibling_groups` gives them.
    """
    members: dict[str, list[Fitted]] = {}
    for item in fits:
        if isinstance(item, Fitted) and item.layer.name in data:
            members.setdefault(groups.get(item.layer.name, item.layer.name), []).append(item)
    found: dict[str, Fitted] = {}
    for items in members.values():
        seen = [data[item.layer.name] for item in items]
        made = decompose_together(
            [item.layer.load() for item in items],
            [one.moments for one in seen],
            bias=seen[0].bias,
            gradients=seen[0].gradients,
        )
        for item, approximation in zip(items, made, strict=True):
            name = item.layer.name
            found[name] = replace(item, approximation=approximation, group=groups.get(name))
    return [found.get(item.layer.name, item) if isinstance(item, Fitted) else item for item in fits]
