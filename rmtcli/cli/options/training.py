"""Options: how a network is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from rmtcli.cli.groups import given

if TYPE_CHECKING:
    from rmtcli.running.finetune import Training


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """Options of :class:`rmtcli.running.finetune.Training`."""

    epochs: Annotated[
        int, typer.Option(metavar="N", min=1, help="Passes over the training samples.")
    ] = 5
    lr: Annotated[
        float, typer.Option(metavar="X", help="Initial learning rate of AdamW, which decays to 0.")
    ] = 3e-4
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Samples per training step.")] = 128
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Seed of the order of the samples.")
    ] = 0
    distill: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Share of the loss that measures the distance from the dense network's outputs.",
        ),
    ] = 0.0

    def build(self) -> Training:
        """Make the library's value."""
        from rmtcli.running.finetune import Training

        return Training(**given(self))
