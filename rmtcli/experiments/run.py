"""Train one row of an experiment with one seed."""

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
        """From the four IDX files of a folder."""
        arrays = (*read_split(folder, "train"), *read_split(folder, "t10k"))
        train, labels, test, test_labels = map(torch.from_numpy, arrays)
        return Images(train.float() / 255, labels.long(), test.float() / 255, test_labels.long())


def run(
    row: Row, seed: int, images: Images, sizes: Mapping[str, int]
) -> Iterator[tuple[str, Outcome]]:
    """Train, and yield what came out: one outcome, or one a rank.

    Args:
        row: how to train.
        seed: of the weights, the batches, and the wrong labels.
        images: what to train and to test on.
        sizes: parameters that other rows came to with this seed, by title.

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
    """The first layer of a trained network at each rank, and at its edge rank."""
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
    """Labels of which a share is replaced by another class, each other class as likely."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    classes = int(labels.max()) + 1
    shift = torch.randint(1, classes, (len(wrong),), generator=generator)
    changed = labels.clone()
    changed[wrong] = (labels[wrong] + shift) % classes
    return changed


def cut_smallest(model: nn.Module, count: int) -> None:
    """Magnitude pruning: the ``count`` smallest weights of all layers are 0 from now on."""
    weights = [(m, "weight") for m in model.modules() if isinstance(m, nn.Linear)]
    prune.global_unstructured(weights, prune.L1Unstructured, amount=count)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent."""
    model.eval()
    batches = zip(torch.split(images, 4096), torch.split(labels, 4096), strict=True)
    right = [int((model(x).argmax(1) == y).sum()) for x, y in batches]
    return 100 * sum(right) / len(images)
