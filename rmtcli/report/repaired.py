"""What an adapter brings back of a dense network, and what stays lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from rmtcli.report.extracted import Extracted, percent
from rmtcli.report.formatting import count_of, some_of


@dataclass(frozen=True, slots=True)
class Repaired(Extracted):
    """An adapter beside the loss that it repairs.

    ``kept`` is the share of this loss that the adapter takes away, and ``noise`` the share that
    lies in the noise of the fits. Losses are shares of that of dropping the dense layers: in the
    metric of the calibration, or, without one, of the squared norms.

    Attributes:
        before: by the name of a layer, the loss of the compressed one.
        loss: the loss of all layers together, before and after.
        stay: names of other tensors that differ, and that the adapter does not change.
    """

    before: Mapping[str, float]
    loss: tuple[float, float]
    stay: tuple[str, ...]

    @staticmethod
    def of(
        adapter: Extracted,
        before: Mapping[str, float],
        loss: tuple[float, float],
        stay: tuple[str, ...],
    ) -> Repaired:
        """The adapter with the losses of the layers."""
        values = {field.name: getattr(adapter, field.name) for field in fields(Extracted)}
        return Repaired(**values, before=before, loss=loss, stay=stay)

    @property
    def words(self) -> str:
        """What it repairs, in a few words."""
        return f"{percent(self.kept)} of the loss repaired"

    def lines(self) -> Iterator[tuple[str, str]]:
        """Label and text of what a summary says."""
        before, after = self.loss
        yield "loss", f"{before:.3g} → {after:.3g} of what dropping the layers would lose"
        yield "repaired", self.words
        yield "noise", f"{percent(self.noise)} of it, by the fits of the layers"
        if self.unchanged:
            yield "no loss", count_of(self.unchanged, "layer")
        if self.stay:
            yield "not changed", f"other tensors that differ: {some_of(list(self.stay))}"
        for which, network in (("BASE", "SMALL"), ("TUNED", "DENSE")):
            if names := [name for name, it in self.only if it == which]:
                yield f"only in {network}", f"{some_of(names)}: left out"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        before, after = self.loss
        record = {key: value for key, value in asdict(self).items() if key != "before"}
        only = [{"name": name, "in": which} for name, which in self.only]
        loss = {"before": before, "after": after, "layers": dict(self.before)}
        return record | {"only": only, "loss": loss}
