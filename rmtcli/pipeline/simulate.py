"""A checkpoint whose noise and signal are known, to test this tool or others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from rmtcli.checkpoint import (
    Checkpoint,
    RawTensor,
    TensorInfo,
    encode,
    format_by_ending,
    open_checkpoint,
)
from rmtcli.checkpoint import write_checkpoint as write
from rmtcli.checkpoint.dtypes import FLOAT_WORDS
from rmtcli.errors import UsageError
from rmtcli.files import check_target
from rmtcli.noise import NOISES, Noise, planted
from rmtcli.options import option
from rmtcli.pipeline.stages import describe
from rmtcli.report.base import Report

#: The output head and how many classes it has.
_HEAD, _CLASSES = "head.weight", 10


def simulate(
    output: str | Path,
    shape: tuple[int, int],
    *,
    layers: int = 1,
    noise: str = "gaussian",
    sigma: float = 1.0,
    rank: int = 0,
    times: float = 2.0,
    dtype: str = "float32",
    seed: int = 0,
    force: bool = False,
) -> Report:
    """Write layers of noise with planted directions, and the truth into the file's metadata.

    The last layer is a small output head of noise, so that every other layer may be pruned.

    Args:
        output: ``.safetensors`` file to write; other formats cannot hold the truth.
        shape: (out, in) of every layer.
        layers: number of layers.
        noise: kind of noise with options, such as ``"student:df=3"``.
        sigma: standard deviation of the noise.
        rank: number of planted directions per layer.
        times: strength of the planted directions, as a multiple of the detection limit.
        dtype: ``float64``, ``float32``, ``float16`` or ``bfloat16``.
        seed: seed of the random numbers; the same seed gives the same file.
        force: whether an existing output may be replaced.

    Raises:
        UsageError: a wrong option or path.
    """
    target = Path(output)
    if not format_by_ending(target).keeps_metadata:
        raise UsageError(f"{target}: the truth needs a .safetensors file: name one")
    check_target(target, inputs=[], force=force)
    kind = NOISES.parse(noise)
    if min(shape) < 1 or layers < 1:
        raise UsageError(f"{layers} layers of {shape[0]}x{shape[1]}: give numbers of at least 1")
    if not 0 <= rank <= min(shape):
        raise UsageError(f"rank {rank}: a matrix of {shape[0]}x{shape[1]} has at most {min(shape)}")
    if not (0 < sigma < np.inf and 0 <= times < np.inf):
        raise UsageError(f"sigma {sigma:g} must be positive and times {times:g} at least 0")
    if dtype not in FLOAT_WORDS:
        raise UsageError(f"dtype '{dtype}': choose one of {', '.join(FLOAT_WORDS)}")
    truth = {
        "noise": NOISES.spell(kind),
        "sigma": sigma,
        "rank": rank,
        "times": times,
        "strength": times * sigma * (shape[0] * shape[1]) ** 0.25,
        "seed": seed,
    }
    drawn = _Drawn(target, shape, layers, kind, FLOAT_WORDS[dtype], truth)
    try:
        write(drawn, target, force=force)
    except OverflowError as error:
        raise UsageError(
            f"{error}: choose another {option('dtype')} or a smaller {option('sigma')}"
        ) from None
    return Report("simulate", describe(open_checkpoint(target)))


class _Drawn(Checkpoint):
    """Layers that are drawn when they are read, so that memory holds one at a time."""

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int],
        layers: int,
        noise: Noise,
        dtype: str,
        truth: Mapping[str, str | float | int],
    ) -> None:
        self.path = path
        names = [f"layers.{i}.weight" for i in range(layers)]
        self.infos = dict.fromkeys(names, TensorInfo(shape, dtype))
        self.infos[_HEAD] = TensorInfo((_CLASSES, shape[0]), dtype)
        self.manifest = None
        self.metadata = {"truth": json.dumps(dict.fromkeys(names, truth))}
        self.extras = ()
        self._shape, self._noise, self._dtype, self._truth = shape, noise, dtype, truth

    def raw(self, name: str) -> RawTensor:
        """The layer, drawn from the seed and the layer's number."""
        seed, sigma = int(self._truth["seed"]), float(self._truth["sigma"])
        if name == _HEAD:
            rng = np.random.default_rng(seed)
            return encode(sigma * rng.standard_normal(self.infos[name].shape), self._dtype)
        rng = np.random.default_rng([seed, int(name.split(".")[1])])
        weight = planted(
            rng,
            self._shape,
            self._noise,
            sigma=sigma,
            rank=int(self._truth["rank"]),
            times=float(self._truth["times"]),
        )
        return encode(weight, self._dtype)

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """No ties: every layer is drawn independently."""
        return {}
