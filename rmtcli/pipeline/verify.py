"""Open a factored directory as its users will, and compare it with its dense product."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import open_checkpoint
from rmtcli.checkpoint.huggingface import refuse_code_beside
from rmtcli.checkpoint.huggingface.loading import IMPORT
from rmtcli.checkpoint.names import member
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
#: Deep models amplify rounding. The product's own rounding is measured against float64; the
#: factored model rounds in other places, up to twice as often. A bound above this one would hide
#: errors such as weights rounded to bfloat16 (4e-3).
_TIMES, _BOUND = 4.0, 1e-3
_TRUSTED = "trust_remote_code=True"
_NOT_RUN = "rmtcli could not make an input for this model: outputs were not compared"


def verify(path: str | Path, *, against: str | Path | None = None) -> Verification:
    """Open a factored directory in fresh processes, by both routes, and compare its outputs.

    The routes are ``import rmtcli.integrations.transformers`` and ``trust_remote_code=True``. The
    dense model that the directory should equal is the product of its factors, computed here and
    loaded by transformers alone. Of the directory's code only rmtcli's own file is executed.

    Args:
        path: a directory that rmtcli wrote.
        against: the dense model's directory, to measure the distance between the two.

    Raises:
        UsageError: the directory does not exist, or transformers is not installed.
        CheckpointError: the directory is damaged, or names other code than rmtcli's; a weight is
            missing, unexpected or of another shape; or the layers are not replaced by factored
            ones.
        EvaluationError: the outputs differ from those of the dense product.
    """
    _refuse_plain(Path(path))
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
        IMPORT in (plain.error or ""),
        len(plain.missing),
        _distance(dense, original, trusted) if dense is not None else None,
        (*_on_accepted(trusted), *(() if apart is not None else (_NOT_RUN,))),
    )


def _refuse_plain(path: Path) -> None:
    """Say of a directory that needs no loader of rmtcli's that transformers opens it by itself.

    Raises:
        CheckpointError: it is one.
    """
    config = read_config(path)
    if is_factored(config):
        return
    manifest = open_checkpoint(path).manifest
    if manifest is not None and manifest.narrowed:
        raise CheckpointError(
            f"{path}: its hidden layers were made narrower, and no layer was factored: "
            "transformers opens it without rmtcli, as a plain model, and there is nothing to verify"
        )
    if manifest is not None and manifest.packed and config.get("quantization_config"):
        raise CheckpointError(
            f"{path}: its matrices are stored in few bits, and no layer was factored: transformers "
            "opens it without rmtcli, by compressed-tensors, and there is nothing to verify"
        )


def _open_all(
    directory: FactoredDirectory, dense: Path | None, folder: Path
) -> tuple[OpenedModel, OpenedModel, OpenedModel, OpenedModel, OpenedModel]:
    """The directory opened without a route and by each route, its product, and the dense model.

    Each route has a process of its own, so that what one of them registers cannot help the other.
    Without a dense model, the product takes its place. What transformers misses in the dense model
    and does without is not a fault of the factored one; in the product, these are the parts of
    which the files hold nothing.
    """
    steps = [OpenStep(directory.path, "plain"), OpenStep(directory.path, "trust_remote_code")]
    plain, trusted = open_fresh(steps, folder / "first")
    _check(directory.path, trusted.beyond(trusted.missing + trusted.unexpected), _TRUSTED)
    write_products(directory, folder / "product", trusted.transposed)
    steps = [OpenStep(folder / "product"), OpenStep(directory.path, "import")]
    steps[1:1] = [] if dense is None else [OpenStep(dense)]
    product, *others, imported = open_fresh(steps, folder / "second")
    original = others[0] if others else product
    missing = original.missing if others else product.absent
    accepted = _with_factors(directory, {*missing, *original.unexpected})
    _check(directory.path, trusted.beyond(accepted), _TRUSTED)
    _check(directory.path, imported.beyond(accepted), "import rmtcli.integrations.transformers")
    _check(directory.path, product.beyond(accepted), "multiplying the factors", factored=False)
    return plain, trusted, imported, product, original


def _with_factors(directory: FactoredDirectory, names: set[str]) -> set[str]:
    """Names of the dense model's tensors, and of the factors in place of those among them."""
    layers = [module for module in directory.ranks if member(module, "weight") in names]
    return names.union(*(directory.names(module) for module in layers))


def _on_accepted(opened: OpenedModel) -> tuple[str, ...]:
    """Notes on tensors that the dense directory lacks, or has in vain, as well."""
    kinds = (
        (opened.missing, "the dense model's files lack as well, and transformers draws at random"),
        (opened.unexpected, "the dense model does not use either"),
    )
    return tuple(
        f"{len(names)} tensors, such as '{names[0]}', {what}" for names, what in kinds if names
    )


def _rounding(folder: Path, product: OpenedModel) -> float:
    """The difference that rounding explains: that of the product between float32 and float64."""
    (exact,) = open_fresh([OpenStep(folder / "product", dtype="float64")], folder / "third")
    own = difference((product,), exact)
    return TOLERANCE if own is None else max(TOLERANCE, min(_TIMES * own, _BOUND))


def _checked_dense(path: Path) -> Path:
    if is_factored(read_config(path)):
        raise UsageError(f"{path}: is factored itself: name the dense model's directory")
    refuse_code_beside(path)
    return path


def _check(path: Path, opened: OpenedModel, route: str, *, factored: bool = True) -> None:
    """Make sure that every weight was loaded, and that layers were replaced by factored ones."""
    fault = opened.fault
    if fault is None and factored and not opened.registered:
        fault = "its layers are not replaced by factored ones"
    if fault is not None:
        raise CheckpointError(f"{path}: opened by {route}, {fault}")


def difference(models: tuple[OpenedModel, ...], product: OpenedModel) -> float | None:
    """The largest difference between an output and the product's, relative to the largest entry.

    Returns:
        Infinity for an output of another shape, or with values that are not finite; None where the
        product could not be run.
    """
    if product.value is None:
        return None
    scale = float(np.abs(product.value).max()) or 1.0
    largest = 0.0
    for model in models:
        value = model.value
        if value is None or value.shape != product.value.shape or not np.isfinite(value).all():
            return math.inf
        largest = max(largest, float(np.abs(value - product.value).max()) / scale)
    return largest


def _distance(path: Path, dense: OpenedModel, factored: OpenedModel) -> Distance | None:
    """The distance between the factored model and the dense one."""
    accepted = (*dense.missing, *dense.unexpected)
    _check(path, dense.beyond(accepted), "transformers", factored=False)
    if factored.value is None or dense.value is None:
        return None
    a, b = factored.value, dense.value
    if a.shape != b.shape or factored.output != dense.output or factored.output is None:
        raise CheckpointError(f"{path}: is not the dense model: its outputs have another shape")
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosine = (a * b).sum(-1) / np.where(norms > 0, norms, 1.0)
    scale = float(np.abs(b).max()) or 1.0
    return Distance(
        str(path),
        factored.output,
        float(cosine.mean()),
        _divergence(b, a) if factored.output == "logits" else None,
        float(np.abs(a - b).max()) / scale,
    )


def _divergence(dense: FloatArray, factored: FloatArray) -> float:
    """Mean over positions of Σ p log(p / q), where p are the dense model's probabilities."""
    p, q = (x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in (dense, factored))
    return float((np.exp(p) * (p - q)).sum(-1).mean())
