"""Which activation a chain of linear layers has, where targets can tell."""

from __future__ import annotations

import math

import numpy as np
import torch

from rmtcli.arrays import FloatArray
from rmtcli.errors import RmtcliError
from rmtcli.evaluation.chain import infer_chain
from rmtcli.evaluation.data import Samples
from rmtcli.evaluation.harness import ACTIVATIONS, RELU, Harness
from rmtcli.evaluation.measures import merits
from rmtcli.evaluation.reading import Rows, read_rows
from rmtcli.layouts.module import fill
from rmtcli.options import option

#: Number of samples on which all activations are tried.
TRIED = 512
#: Standard errors by which another activation must be better.
ERRORS = 3


def settled_activation(harness: Harness) -> str:
    """The activation that the user names; or else, with targets, the one that scores best.

    Another one than the default has to be better than it, and better than a guess: with wrong
    targets, which are reported as such, one of them is better than the others.

    Args:
        harness: a network that is inferred; is told if another activation than the user's, or than
            the default one, is better than can be chance.
    """
    given, samples = harness.evaluation.activation, harness.samples
    known = harness.checkpoint.about.activation
    if given is None and known:
        return known
    first = given or RELU
    if samples is None or samples.targets is None or samples.next_tokens:
        return first
    qualities, chance = _qualities(harness, samples.some(TRIED), first)
    if not qualities:
        return first
    top = max(qualities.values(), key=np.mean)
    if not _better(top, qualities[first]) or not _better(top, np.full(len(top), chance)):
        return first
    # The most common one of those that may be the best.
    best = next(name for name in ACTIVATIONS if not _better(top, qualities[name]))
    shares = " and ".join(f"{100 * qualities[x].mean():.1f} % with {x}" for x in (best, first))
    how = (
        "was taken"
        if given is None
        else f"was not taken, because {option('activation')} names another"
    )
    count = len(qualities[best])
    harness.note([f"on {count} samples the network is right for {shares}: {best} {how}"])
    return best if given is None else given


@torch.inference_mode()
def _qualities(
    harness: Harness, samples: Samples, first: str
) -> tuple[dict[str, FloatArray], float]:
    """How good a network's outputs are for each sample, by activation; and that of a guess.

    Nothing is measured if they are no classes. Whatever is wrong with the network or the samples is
    reported when it is measured.
    """
    inputs, qualities = torch.from_numpy(samples.inputs), dict[str, FloatArray]()
    chance = 0.5
    try:
        reading = None
        for name in (first, *(x for x in ACTIVATIONS if x != first)):
            chain = infer_chain(harness.checkpoint, name)
            fill(chain, harness.checkpoint)
            dtype = next(chain.parameters()).dtype
            outputs = chain(inputs.to(dtype)).double().numpy()
            if reading is None:
                reading = read_rows(samples.targets, outputs, harness.task.rows)
                samples = reading.ready(samples)
            if reading.rows not in (Rows.CLASSES, Rows.LABELS) or samples.targets is None:
                return {}, chance
            if reading.rows is Rows.CLASSES:
                chance = 1 / outputs.shape[1]
            qualities[name] = merits(outputs, samples.targets, reading.rows)
    except (RmtcliError, RuntimeError, ValueError, IndexError):
        return {}, chance
    return qualities, chance


def _better(one: FloatArray, other: FloatArray) -> bool:
    """Whether one activation is better than another, beyond what chance in the samples explains."""
    differences = one - other
    error = math.sqrt(float(differences.var()) / len(differences))
    return bool(np.mean(differences) > ERRORS * error)
