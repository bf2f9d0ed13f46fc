"""Open a factored directory as its users will, and compare it with what it should compute."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.errors import CheckpointError, EvaluationError, UsageError
from rmtcli.report.verification import Distance, Verification
from rmtcli.verification.directory import (
    FactoredDirectory,
    is_factored,
    open_factored,
    read_config,
    write_products,
)
from rmtcli.verification.parent import OpenedModel, OpenStep, open_fresh

#: Largest difference from the product of the factors, as a share of the largest output: float32
#: rounds at 6e-8, and the orders of summation differ in every layer.
TOLERANCE = 1e-5
#: Deep models amplify rounding. What it does to the product itself is seen beside float64; the
#: factored model rounds in other places and as often or twice as often. Above the bound, errors
#: such as weights rounded to bfloat16 (4e-3) would hide.
_TIMES, _BOUND = 4.0, 1e-3
_NOT_RUN = "rmtcli could not make an input for this model: outputs were not compared"


def verify(path: str | Path, *, against: str | Path | None = None) -> Verification:
    """Open a factored directory in fresh processes, by both ways, and compare its outputs.

    The dense model that it should equal is the product of its factors, computed here and loaded
    by transformers alone. Of the directory's code only rmtcli's own file is executed.

    Args:
        path: a directory that rmtcli wrote.
        against: the dense model's directory; how far the two are apart is part of the answer.

    Raises:
        UsageError: no such directory, or transformers is not installed.
        CheckpointError: the directory is damaged, a weight is missing, left over or of another
            shape, or the layers are not put in.
        EvaluationError: the outputs are not those of the dense product.
    """
    directory = open_factored(Path(path))
    dense = None if against is None else _checked_dense(Path(against))
    with TemporaryDirectory(prefix="rmtcli-") as name:
        folder = Path(name)
        plain, trusted, imported, product, original = _open_all(directory, dense, folder)
        apart, allowed = difference((trusted, imported), product), TOLERANCE
        if apart is not None and apart > TOLERANCE:
            allowed = _rounding(folder, product)
    if apart is not None and apart > allowed:
        raise EvaluationError(
            f"{directory.path}: outputs differ from those of the product of the factors by "
            f"{apart:.1e} of the largest; up to {allowed:.0e} is rounding"
        )
    return Verification(
        str(directory.path),
        trusted.kind,
        trusted.auto,
        trusted.transformers,
        len(directory.ranks),
        allowed,
        apart,
        len(plain.missing),
        _distance(dense, original, trusted) if dense is not None else None,
        () if apart is not None else (_NOT_RUN,),
    )


def _open_all(
    directory: FactoredDirectory, dense: Path | None, folder: Path
) -> tuple[OpenedModel, OpenedModel, OpenedModel, OpenedModel, OpenedModel]:
    """The directory by neither way, by the one and by the other; its product; and the dense model.

    Each way has a process of its own: what one of them registers must not help the other. Where
    no dense model is asked for, the product stands in its place.
    """
    steps = [OpenStep(directory.path, "plain"), OpenStep(directory.path, "trust_remote_code")]
    plain, trusted = open_fresh(steps, folder / "first")
    _check(directory.path, trusted, "trust_remote_code=True")
    write_products(directory, folder / "product", trusted.transposed)
    steps = [OpenStep(folder / "product"), OpenStep(directory.path, "import")]
    steps[1:1] = [] if dense is None else [OpenStep(dense)]
    product, *others, imported = open_fresh(steps, folder / "second")
    _check(directory.path, imported, "import rmtcli.integrations.transformers")
    _check(directory.path, product, "multiplying the factors", factored=False)
    return plain, trusted, imported, product, others[0] if others else product


def _rounding(folder: Path, product: OpenedModel) -> float:
    """The difference that rounding explains, by the product's own between float32 and float64."""
    (exact,) = open_fresh([OpenStep(folder / "product", dtype="float64")], folder / "third")
    own = difference((product,), exact)
    return TOLERANCE if own is None else max(TOLERANCE, min(_TIMES * own, _BOUND))


def _checked_dense(path: Path) -> Path:
    if is_factored(read_config(path)):
        raise UsageError(f"{path}: is factored itself: name the dense model's directory")
    return path


def _check(path: Path, found: OpenedModel, route: str, *, factored: bool = True) -> None:
    """Make sure that every weight was found, and the factored layers were put in."""
    fault = found.fault
    if fault is None and factored and not found.registered:
        fault = "the factored layers are not put in"
    if fault is not None:
        raise CheckpointError(f"{path}: opened by {route}, {fault}")


def difference(found: tuple[OpenedModel, ...], product: OpenedModel) -> float | None:
    """The largest difference of an output from the product's, as a share of its largest entry.

    Returns:
        Infinity for an output of another shape, or one that is not finite; None where the product
        could not be run.
    """
    if product.value is None:
        return None
    scale = float(np.abs(product.value).max()) or 1.0
    largest = 0.0
    for item in found:
        value = item.value
        if value is None or value.shape != product.value.shape or not np.isfinite(value).all():
            return math.inf
        largest = max(largest, float(np.abs(value - product.value).max()) / scale)
    return largest


def _distance(path: Path, dense: OpenedModel, found: OpenedModel) -> Distance | None:
    """How far the factored model is from the dense one."""
    _check(path, dense, "transformers", factored=False)
    if found.value is None or dense.value is None:
        return None
    a, b = found.value, dense.value
    if a.shape != b.shape or found.output != dense.output or found.output is None:
        raise CheckpointError(f"{path}: is not the dense model: its outputs have another shape")
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosine = (a * b).sum(-1) / np.where(norms > 0, norms, 1.0)
    scale = float(np.abs(b).max()) or 1.0
    return Distance(
        str(path),
        found.output,
        float(cosine.mean()),
        _divergence(b, a) if found.output == "logits" else None,
        float(np.abs(a - b).max()) / scale,
    )


def _divergence(dense: FloatArray, found: FloatArray) -> float:
    """Mean of Σ p log(p / q) over positions, p of the dense model."""
    p, q = (x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in (dense, found))
    return float((np.exp(p) * (p - q)).sum(-1).mean())
