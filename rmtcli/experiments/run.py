"""Training one row of an experiment with one seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from rmtcli.errors import TrainingError
from rmtcli.experiments.base import Outcome, Row
from rmtcli.experiments.idx import read_split
from rmtcli.experiments.networks import mlp
from rmtcli.training import RMTPruner

BATCH = 128
MOMENTUM = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Training and test images, values in [0, 1], shape (samples, pixels), and their classes."""

    train: Tensor
    labels: Tensor
    test: Tensor
    test_labels: Tensor

    @staticmethod
    def read(folder: Path) -> Images:
        """Read the four IDX files of a folder."""
        arrays = (*read_split(folder, "train"), *read_split(folder, "t10k"))
        train, labels, test, test_labels = map(torch.from_numpy, arrays)
        return Images(train.float() / 255, labels.long(), test.float() / 255, test_labels.long())


def run(
    row: Row, seed: int, images: Images, sizes: Mapping[str, int]
) -> Iterator[tuple[str, Outcome]]:
    """Train, and yield the outcome with its title, or one outcome per rank.

    Args:
        row: the way of training.
        seed: seed of the weights, the batches and the wrong labels.
        images: training and test images.
        sizes: numbers of parameters that other rows had at the end with this seed, by title.

    Yields:
        (title, outcome).

    Raises:
        TrainingError: the loss is no longer finite.
    """
    labels = noisy(images.labels, row.noise, seed)
    model = mlp(row.sizes, seed, dropout=row.dropout, relu_logits=row.relu_logits)
    optimizer = torch.optim.SGD(model.parameters(), lr=row.lr, momentum=MOMENTUM)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, row.decay_every, row.decay)
    options = dict(row.prune or {})
    pruner = RMTPruner(model, optimizer, **options, l1=row.l1, l2=row.l2)
    dense, curve = pruner.parameters, []
    for epoch in range(row.epochs):
        if row.prune is not None and not row.ranks:
            pruner.step()
        if row.magnitude_like is not None and epoch == row.epochs // 2:
            cut_smallest(model, dense - sizes[row.magnitude_like])
        _epoch(model, optimizer, pruner, images.train, labels)
        schedule.step()
        curve.append(accuracy(model, images.test, images.test_labels))
    train = accuracy(model, images.train, labels)
    parameters = sizes[row.magnitude_like] if row.magnitude_like else pruner.parameters
    if not row.ranks:
        ranks = pruner.ranks if row.prune is not None else {}
        yield row.title, Outcome(curve[-1], train, parameters, dense, ranks, tuple(curve))
        return
    yield "dense", Outcome(curve[-1], train, dense, dense, curve=tuple(curve))
    yield from _truncated(model, row, options, images, labels)


def _epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, pruner: RMTPruner, x: Tensor, y: Tensor
) -> None:
    """Train for one epoch on the images x and the labels y.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    model.train()
    loss = torch.zeros(())
    for rows in torch.split(torch.randperm(len(x)), BATCH):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        torch.autograd.backward(loss)
        pruner.penalize()
        optimizer.step()
    if not bool(loss.isfinite()):
        raise TrainingError("the loss is no longer finite: lower the learning rate")


def _truncated(
    model: nn.Sequential, row: Row, options: Mapping[str, str], images: Images, labels: Tensor
) -> Iterator[tuple[str, Outcome]]:
    """Yield the outcome with the first layer truncated to each rank, and to its edge rank."""
    dense = sum(p.numel() for p in model.parameters())
    rules = [*(f"rank:k={rank}" for rank in row.ranks), "edge:at_least=10"]
    for rule in rules:
        copy = mlp(row.sizes, 0)
        copy.load_state_dict(model.state_dict())
        optimizer = torch.optim.SGD(copy.parameters(), lr=row.lr)
        pruner = RMTPruner(copy, optimizer, edge=options["edge"], keep=rule, start=0)
        pruner.step()
        (rank,) = pruner.ranks.values()
        title = "edge rank" if rule.startswith("edge") else f"rank {rank}"
        test = accuracy(copy, images.test, images.test_labels)
        train = accuracy(copy, images.train, labels)
        yield title, Outcome(test, train, pruner.parameters, dense, pruner.ranks)


def noisy(labels: Tensor, share: float, seed: int) -> Tensor:
    """Return labels of which a share is replaced by another class, all equally likely."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    classes = int(labels.max()) + 1
    shift = torch.randint(1, classes, (len(wrong),), generator=generator)
    changed = labels.clone()
    changed[wrong] = (labels[wrong] + shift) % classes
    return changed


def cut_smallest(model: nn.Module, count: int) -> None:
    """Prune by magnitude: fix the ``count`` smallest weights of all linear layers at 0."""
    weights = [(m, "weight") for m in model.modules() if isinstance(m, nn.Linear)]
    prune.global_unstructured(weights, prune.L1Unstructured, amount=count)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the top-1 accuracy in percent."""
    model.eval()
    batches = zip(torch.split(images, 4096), torch.split(labels, 4096), strict=True)
    correct = [int((model(x).argmax(1) == y).sum()) for x, y in batches]
    return 100 * sum(correct) / len(images)
