"""The published experiments, with their settings and figures.

Settings are those of the papers and their notebooks; if a row differs, its title says so.
"""

from __future__ import annotations

from dataclasses import replace

from rmtcli.experiments.base import Experiment, Row

#: arXiv 2303.08986: BEMA with α = 0.2 and β = 0.1; a fit is accepted up to a distance of 0.1.
_SEED_EDGE = "bema:alpha=0.2,beta=0.1,max_distance=0.1,refits=0"
_PRETRAINED_EDGE = "bema:alpha=0.25,beta=0.1,max_distance=1,refits=0"

_MNIST = Row("dense", (784, 1000, 10), 10, 0.08)
_PAPER = {"edge": _SEED_EDGE, "keep": "auto", "schedule": "constant:of=0.45"}
_SPIKES = {"edge": "select", "keep": "auto"}


def _titled(row: Row, title: str, **changes: object) -> Row:
    """Return a row with another title and other settings."""
    return replace(row, title=title, **changes)  # type: ignore[arg-type]


def _mnist_pretrained() -> Experiment:
    accuracies = ("75.75", "90.71", "97.29", "98.02", "98.21", "98.22", "98.23", "98.33")
    ranks = (10, 20, 30, 40, 50, 55, 60, 90)
    row = _titled(_MNIST, "dense", ranks=ranks, prune={"edge": _PRETRAINED_EDGE})
    published = {f"rank {k}": value for k, value in zip(ranks, accuracies, strict=True)}
    published |= {"dense": "98.29", "edge rank": "rank 56"}
    return Experiment("mnist-pretrained", "arXiv 2303.08986, pretrained network", (row,), published)


def _mnist_training() -> Experiment:
    half = _titled(_MNIST, "RMT-SVD: spikes only, from halfway", prune={**_SPIKES, "start": 5})
    tenth = _titled(
        half,
        "RMT-SVD: spikes and 10 % of the rest, from halfway",
        prune={**_SPIKES, "schedule": "constant:of=0.1", "start": 5},
    )
    ramp = _titled(
        _MNIST, "RMT-SVD: linear to spikes only", prune={**_SPIKES, "schedule": "linear:until=6"}
    )
    paper = _titled(_MNIST, "RMT-SVD: the paper's 45 %, every epoch", prune=_PAPER)
    relu = _titled(_MNIST, "dense, ReLU on the logits", relu_logits=True, published="87.0")
    rows = (
        _MNIST,
        half,
        tenth,
        ramp,
        paper,
        relu,
        _titled(paper, f"{paper.title}, ReLU on the logits", relu_logits=True, published="97.5"),
        _titled(_MNIST, "L1 + L2", l1=5e-6, l2=5e-6),
        _titled(_MNIST, "dropout 0.5", dropout=0.5),
        _titled(_MNIST, "magnitude, size of spikes only from halfway", magnitude_like=half.title),
    )
    return Experiment("mnist-training", "arXiv 2303.08986, during training", rows)


def _fashion(
    name: str, source: str, base: Row, prune: dict[str, object], weight: float
) -> Experiment:
    rmt = _titled(base, "RMT-SVD", prune=prune)
    rows = (
        base,
        rmt,
        _titled(base, "L1 + L2", l1=weight, l2=weight),
        _titled(rmt, "RMT-SVD + L1 + L2", l1=weight, l2=weight),
        _titled(rmt, "RMT-SVD + L2", l2=weight),
        _titled(base, "dropout 0.5", dropout=0.5),
        _titled(base, "magnitude, size of RMT-SVD", magnitude_like=rmt.title),
        _titled(base, "dense, ReLU on the logits", relu_logits=True),
        _titled(rmt, "RMT-SVD, ReLU on the logits", relu_logits=True),
        _titled(
            rmt, "RMT-SVD + L1 + L2, ReLU on the logits", relu_logits=True, l1=weight, l2=weight
        ),
    )
    return Experiment(name, source, rows)


def _fashion_2310(width: int, epochs: int, name: str) -> Experiment:
    base = Row("dense", (784, width, width, width, 10), epochs, 0.02, decay=0.96)
    prune: dict[str, object] = {
        "edge": _PRETRAINED_EDGE,
        "keep": "edge:at_least=10",
        "schedule": f"linear:until={epochs}",
    }
    return _fashion(name, "arXiv 2310.03165, Fashion-MNIST", base, prune, 5e-6)


def _fashion_2606() -> Experiment:
    base = Row("dense", (784, 3000, 3000, 3000, 3000, 500, 10), 100, 0.01, 0.96, 4)
    prune: dict[str, object] = {
        "edge": _PRETRAINED_EDGE,
        "keep": "edge:at_least=10",
        "schedule": "linear:until=200",
        "every": 4,
        "start": 4,
    }
    experiment = _fashion("fashion-deep", "arXiv 2606.02608, appendix", base, prune, 1e-6)
    published = {
        "dense, ReLU on the logits": "71.64",
        "RMT-SVD, ReLU on the logits": "81.22",
        "RMT-SVD + L1 + L2, ReLU on the logits": "90.53",
        "L1 + L2, ReLU on the logits": "81.70",
        "RMT-SVD + L2, ReLU on the logits": "90.16",
    }
    last = experiment.rows[-1]
    more = (
        _titled(last, "L1 + L2, ReLU on the logits", prune=None),
        _titled(last, "RMT-SVD + L2, ReLU on the logits", l1=0.0),
    )
    rows = (*experiment.rows, *more)
    rows = tuple(replace(row, published=published.get(row.title, "")) for row in rows)
    return replace(experiment, rows=rows)


def _label_noise() -> Experiment:
    rows: list[Row] = []
    for noise in (0.0, 0.2, 0.4):
        base = replace(_MNIST, noise=noise)
        spikes = {**_SPIKES, "start": 5}
        half = _titled(base, f"{noise:.0%} noise: RMT-SVD, spikes only, from halfway", prune=spikes)
        rows += [
            replace(base, title=f"{noise:.0%} noise: dense"),
            half,
            _titled(base, f"{noise:.0%} noise: L1 + L2", l1=5e-6, l2=5e-6),
            _titled(base, f"{noise:.0%} noise: L2, 1e-4", l2=1e-4),
            _titled(base, f"{noise:.0%} noise: dropout 0.5", dropout=0.5),
            _titled(base, f"{noise:.0%} noise: magnitude", magnitude_like=half.title),
        ]
    return Experiment(
        "label-noise", "the claim that pruning helps against overfitting", tuple(rows)
    )


EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        _mnist_pretrained(),
        _mnist_training(),
        _label_noise(),
        _fashion_2310(500, 20, "fashion-narrow"),
        _fashion_2310(3000, 300, "fashion"),
        _fashion_2606(),
    )
}
