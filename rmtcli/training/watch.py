"""What a network's confidence on some samples says, before and after a pruner changes it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from rmtcli.errors import UsageError
from rmtcli.stability import cross_entropies, stability

#: Samples that run through the network at a time.
_BATCH = 256


@torch.no_grad()
def confidence_on(model: nn.Module, samples: tuple[Tensor, Tensor]) -> dict[str, float]:
    """The cross-entropy on some samples and what follows from it, as metrics of a log.

    The network runs in evaluation mode, and is left in the mode that it was in.

    Args:
        model: gives class scores, shape (samples, classes).
        samples: inputs, and class numbers of shape (samples,).

    Returns:
        ``cross_entropy``, ``stays_right`` and, where intervals can be tested, ``doubling``:
        :class:`~rmtcli.stability.Stability` says what they are.

    Raises:
        UsageError: the network does not give two class scores or more for each sample, or the
            class numbers are not those of its scores.
    """
    inputs, classes = samples
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        scores = torch.cat([model(rows) for rows in torch.split(inputs, _BATCH)]).double()
    finally:
        for module in training:
            module.training = True
    own = classes.to(scores.device)
    known = scores.ndim == 2 and own.shape == scores.shape[:1] and scores.shape[1] > 1
    if not known or not 0 <= int(own.min()) <= int(own.max()) < scores.shape[1]:
        raise UsageError(
            f"watch: {tuple(scores.shape)} outputs do not fit class numbers {tuple(own.shape)}: "
            "give inputs, and the class number of each"
        )
    right = scores.gather(1, own[:, None])[:, 0]
    others = scores.scatter(1, own[:, None], -np.inf).amax(1)
    logs = scores.log_softmax(1).cpu().numpy()
    losses = cross_entropies(logs, own.cpu().numpy())
    result = stability((right - others).cpu().numpy(), losses)
    metrics = {"cross_entropy": result.cross_entropy, "stays_right": result.stays}
    return metrics if result.doubling is None else metrics | {"doubling": result.doubling}
