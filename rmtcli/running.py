"""What needs the network to run: calibration, and the search within a guard."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from rmtcli.calibration.base import Calibration
from rmtcli.calibration.collect import collect
from rmtcli.calibration.moments import Moments, merge
from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.errors import EvaluationError, UsageError
from rmtcli.evaluation.base import Comparison, Evaluation, Scores
from rmtcli.evaluation.data import Samples, has_training_part, read_samples
from rmtcli.evaluation.network import build, run
from rmtcli.evaluation.score import measure
from rmtcli.guard import Guard, paired_drop, smallest
from rmtcli.layers import Layer
from rmtcli.lowrank import prefix_of
from rmtcli.names import member, module_of
from rmtcli.plan import Data

#: How a guard divides the held-out samples: those of the search, those that confirm what it
#: found, and those of the report.
SHARES = (0.4, 0.2, 0.4)


def calibrate(
    checkpoint: Checkpoint, layers: Sequence[Layer], evaluation: Evaluation, settings: Calibration
) -> dict[str, Data]:
    """What each layer sees, by the layer's name; one that no input reached is missing.

    Raises:
        EvaluationError: data that the network does not take, or that is one row over and over.
    """
    source = settings.data
    assert source is not None
    samples = read_samples(source, "train_" if has_training_part(source) else "")
    if len(samples.inputs) < 2 or bool(np.all(samples.inputs == samples.inputs[:1])):
        raise EvaluationError(f"{source}: calibration needs samples that differ from one another")
    model = build(evaluation, checkpoint)
    prefix = prefix_of(model, checkpoint)
    modules = {
        layer.name: _distinct(model, (layer.name, *layer.aliases), prefix) for layer in layers
    }
    found = collect(
        model,
        samples.inputs,
        [name for names in modules.values() for name in names],
        lambda network, inputs: run(network, inputs, str(source)),
        batch=settings.batch,
        gradients=settings.gradients,
    )
    seen = {name: [found[m] for m in names if m in found] for name, names in modules.items()}
    return {
        layer.name: _usable(checkpoint, layer, merge(seen[layer.name]), settings)
        for layer in layers
        if seen[layer.name]
    }


def _usable(checkpoint: Checkpoint, layer: Layer, moments: Moments, settings: Calibration) -> Data:
    bias = checkpoint.infos.get(member(layer.module, "bias"))
    biased = bias is not None and bias.shape == layer.shape[:1] and bias.dtype in FLOATS
    return Data(moments, biased, settings.gradients and moments.gradient is not None)


def _distinct(model: nn.Module, names: Sequence[str], prefix: str) -> list[str]:
    """The model's linear layers under a weight's names, each object once."""
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[int, str] = {}
    for name in names:
        module = module_of(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if module is not None and isinstance(modules.get(module), nn.Linear):
            found.setdefault(id(modules[module]), module)
    return list(found.values())


def guarded(
    checkpoint: Checkpoint,
    make: Callable[[int], Checkpoint],
    sizes: tuple[int, int],
    evaluation: Evaluation,
    max_drop: float,
) -> tuple[int | None, Comparison, Guard]:
    """The smallest size whose network loses no more than ``max_drop``.

    Args:
        checkpoint: the dense network.
        make: from a size to the pruned checkpoint.
        sizes: smallest possible size, and the dense one.
        evaluation: how to score; its samples are divided between search, confirmation and report.
        max_drop: points of accuracy, or units of the user's own score.

    Returns:
        The size, or None if nothing can be removed; the comparison on the report's samples; and
        what is known about the limit.

    Raises:
        UsageError: nothing to measure accuracy or score with.
    """
    samples = None if evaluation.data is None else read_samples(evaluation.data)
    if evaluation.score is None and (samples is None or samples.targets is None):
        raise UsageError("--max-drop needs --data with 'targets', or --eval")
    parts: list[Samples | None] = [None] * 3 if samples is None else list(samples.split(*SHARES))
    search, confirm, rest = parts
    if any(part is not None and not len(part.inputs) for part in parts):
        raise EvaluationError(
            f"{evaluation.data}: too few samples to divide between search, confirmation and report"
        )
    dense = build(evaluation, checkpoint)
    # The user's own score, where there is one, is what is guarded.
    before = [measure(dense, part, evaluation.score) for part in parts]

    def within(size: int, part: Samples | None, reference: Scores) -> bool:
        scores = measure(build(evaluation, make(size)), part, evaluation.score)
        return _drop(reference, scores) <= max_drop

    size = smallest(
        *sizes, lambda n: within(n, search, before[0]), lambda n: within(n, confirm, before[1])
    )
    pruned = checkpoint if size is None else make(size)
    after = measure(build(evaluation, pruned), rest, evaluation.score)
    comparison = Comparison(evaluation.network, rest, before[2], after)
    return size, comparison, _known(max_drop, search, confirm, comparison)


def _drop(before: Scores, after: Scores) -> float:
    if before.score is not None and after.score is not None:
        return before.score - after.score
    assert before.accuracy is not None
    assert after.accuracy is not None
    return before.accuracy - after.accuracy


def _known(
    max_drop: float, search: Samples | None, confirm: Samples | None, comparison: Comparison
) -> Guard:
    searched = 0 if search is None else len(search.inputs)
    confirmed = 0 if confirm is None else len(confirm.inputs)
    rest, before, after = comparison.samples, comparison.before, comparison.after
    if after.score is not None or rest is None or before is None:
        return Guard(max_drop, searched, confirmed, None)
    right = [np.asarray(scores.predictions == rest.targets) for scores in (before, after)]
    pair = paired_drop(*right)
    return Guard(max_drop, searched, confirmed, pair.confidence(max_drop))
