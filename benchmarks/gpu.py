"""Speed on an accelerator: decompositions, a large random network, and layers in each layout.

    python -m benchmarks.gpu [--device auto] [--seconds 480] [--small]

All tables come from one run, which ends within ``--seconds``: what does not fit is left out, and a
line says so. ``--small`` takes tiny sizes, to try the program on any machine. Prints Markdown.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import rmtcli
from benchmarks.networks import print_row
from rmtcli.checkpoint import encode
from rmtcli.checkpoint.packing import Packed, pack
from rmtcli.computing.device import OnDevice, best_device
from rmtcli.layouts import LAYOUTS, Layout
from rmtcli.layouts.packed_module import PackedWeight
from rmtcli.quantization import Grid
from rmtcli.running.clock import timed

BATCHES = (1, 32, 512)
SHARE = 0.6
BITS = (8, 4)


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        sides: sides of the matrices that are decomposed.
        batch: number of matrices that are decomposed together.
        hidden: width of the network; its other widths have the ratios of an 8-billion Llama's.
        tokens: number of calibration tokens.
        samples: texts that they are divided into.
    """

    sides: tuple[int, ...]
    batch: int
    hidden: int
    tokens: int
    samples: int

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Shapes (out, in) of the matrices of one block."""
        h = self.hidden
        return {
            "query, output": (h, h),
            "key, value": (h // 4, h),
            "gate, up": (7 * h // 2, h),
            "down": (h, 7 * h // 2),
        }


LARGE = Sizes((1024, 2048, 4096, 8192), 8, 4096, 16_384, 64)
SMALL = Sizes((64, 128), 4, 64, 512, 32)
#: Blocks of the network whose time is extrapolated to.
BLOCKS = 32


class Deadline:
    """Says whether a measurement that takes about as long as the last one still fits."""

    def __init__(self, seconds: float) -> None:
        self._end, self._last, self._start = time.monotonic() + seconds, 0.0, time.monotonic()

    def fits(self, growth: float = 1.0) -> bool:
        """Whether the next measurement fits, which takes ``growth`` times as long."""
        now = time.monotonic()
        self._last, self._start = now - self._start, now
        return now + growth * self._last < self._end


def seconds_of(function: Callable[[], object], device: str) -> float:
    """Median seconds of at most three runs after the first, which loads libraries."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        function()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        if times[-1] > 5:
            break
    return median(times[1:] or times)


def decompositions(sizes: Sizes, device: str, deadline: Deadline) -> Iterator[tuple[str, ...]]:
    """Rows: milliseconds per matrix for eigenvalues, and with vectors, alone and batched."""
    for side in sizes.sides:
        if not deadline.fits(8):
            yield (f"{side:,}", "left out: no time")
            return
        cells = []
        for dtype in (torch.float64, torch.float32):
            random = torch.Generator(device=device).manual_seed(0)
            w = torch.randn(sizes.batch, side, side, generator=random, device=device, dtype=dtype)
            grams = w.mT @ w
            for solve in (torch.linalg.eigvalsh, torch.linalg.eigh):
                one = seconds_of(partial(solve, grams[0]), device)
                cells.append(f"{1e3 * one:,.1f}")
                if sizes.batch * one < 10:
                    many = seconds_of(partial(solve, grams), device) / sizes.batch
                    cells.append(f"{1e3 * many:,.1f}")
                else:
                    cells.append("–")
        weight = np.random.default_rng(0).standard_normal((side, side)).astype(np.float32)
        whole = seconds_of(partial(OnDevice(device).spectrum, weight, vectors=True), device)
        yield (f"{side:,}", *cells, f"{1e3 * whole:,.1f}")


def network(sizes: Sizes, blocks: int, device: str) -> nn.Module:
    """A random Llama in bfloat16 with the shapes of 8 billion parameters, and few tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=sizes.hidden,
        intermediate_size=7 * sizes.hidden // 2,
        num_hidden_layers=blocks,
        num_attention_heads=sizes.hidden // (sizes.hidden // 32 if sizes.hidden >= 512 else 16),
        num_key_value_heads=8 if sizes.hidden >= 512 else 1,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(device, torch.bfloat16).eval()


def calibrated(sizes: Sizes, device: str, deadline: Deadline) -> None:
    """Print seconds of a compression to 60 % in the pivoted layout, by number of blocks."""
    print_row("blocks", "parameters", "forward, s", "compressed, s")
    print_row(*["---"] * 4)
    random, seconds = np.random.default_rng(0), {}
    shape = (sizes.samples, sizes.tokens // sizes.samples)
    ids = torch.from_numpy(random.integers(0, 1024, shape))
    batches = [{"input_ids": x, "attention_mask": torch.ones_like(x)} for x in ids.split(4)]
    for blocks in (1, 2, 4):
        if not deadline.fits(2.5):
            print(f"\n{blocks} blocks are left out: no time.")
            break
        model = network(sizes, blocks, device)
        forward = seconds_of(partial(_forward, model, batches, device), device)
        start = time.perf_counter()
        rmtcli.compress(model, budget=f"{SHARE:.0%}", layout="pivoted", calibration=batches)
        seconds[blocks] = time.perf_counter() - start
        count = sum(p.numel() for p in model.parameters())
        print_row(f"{blocks}", f"{count:,}", f"{forward:.2f}", f"{seconds[blocks]:.1f}")
        del model
    if len(seconds) > 1:
        first, *_, last = sorted(seconds)
        slope = (seconds[last] - seconds[first]) / (last - first)
        print(
            f"\nExtrapolated along the line through {first} and {last} blocks: "
            f"{seconds[first] + (BLOCKS - first) * slope:,.0f} s for {BLOCKS} blocks."
        )


@torch.no_grad()
def _forward(model: nn.Module, batches: list[dict[str, Tensor]], device: str) -> None:
    for batch in batches:
        model(**{name: x.to(device) for name, x in batch.items()})


def few_bits(dense: nn.Linear, bits: int) -> nn.Linear:
    """A linear layer of random weights that stay in few bits, and are computed at each use."""
    shape, random = (dense.out_features, dense.in_features), np.random.default_rng(0)
    grid = Grid(bits)
    codes = random.integers(-grid.largest, grid.largest + 1, shape).astype(np.int8)
    scales = random.uniform(0.5, 1, (shape[0], grid.groups(shape[1])))
    packed = Packed("BF16", shape, encode(pack(codes, bits), "I32"), encode(scales, "F16"))
    layer = copy.deepcopy(dense)
    part = PackedWeight(packed, layer.weight)
    parametrize.register_parametrization(layer, "weight", part, unsafe=True)
    return layer.requires_grad_(False)


def rank_of(layout: Layout, shape: tuple[int, int]) -> int:
    """The largest rank at which a layout holds the share of the dense layer's numbers."""
    ranks = range(1, layout.largest_rank(*shape) + 1)
    fitting = [r for r in ranks if layout.values(*shape, r) <= SHARE * shape[0] * shape[1]]
    return max(fitting) // 8 * 8 or max(fitting)


@torch.no_grad()
def forward_times(sizes: Sizes, device: str, deadline: Deadline) -> Iterator[tuple[str, ...]]:
    """Rows: milliseconds of the dense layer, and those of the others as shares of it."""
    layouts = {name: LAYOUTS.parse(name) for name in ("factored", "pivoted")}
    for name, shape in sizes.shapes.items():
        dense = nn.Linear(shape[1], shape[0], bias=False, device=device, dtype=torch.bfloat16)
        small = [x.example(dense, rank_of(x, shape)) for x in layouts.values()]
        modules = [dense, *small, *(few_bits(dense, bits) for bits in BITS)]
        for batch in BATCHES:
            if not deadline.fits():
                yield (name, f"{batch}", "left out: no time")
                return
            x = torch.randn(batch, shape[1], device=device, dtype=torch.bfloat16)
            first, *others = (t.median for t in timed([partial(m, x) for m in modules], device))
            shares = (f"{seconds / first:.2f}" for seconds in others)
            yield (
                f"{name}, {shape[0]:,} × {shape[1]:,}",
                f"{batch}",
                f"{1e3 * first:.3f}",
                *shares,
            )


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--small", action="store_true", help="tiny sizes, for any machine")
    arguments = parser.parse_args()
    sizes = SMALL if arguments.small else LARGE
    device = best_device() if arguments.device == "auto" else arguments.device
    card = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    print(f"{card}, torch {torch.__version__}, {arguments.seconds:g} seconds\n")
    deadline = Deadline(arguments.seconds)
    print(f"Milliseconds per matrix; batches of {sizes.batch}; the last column with transfers.\n")
    kinds = [f"{what}, {kind}" for kind in ("float64", "float32") for what in ("values", "vectors")]
    print_row("side", *(x for kind in kinds for x in (kind, "batched")), "rmtcli")
    print_row(*["---"] * (2 + 2 * len(kinds)))
    for cells in decompositions(sizes, device, deadline):
        print_row(*cells)
    print(f"\nForward times in bfloat16; {SHARE:.0%} of the numbers, or few bits.\n")
    print_row("layer", "batch", "dense, ms", "factored", "pivoted", *(f"{b} bits" for b in BITS))
    print_row(*["---"] * (5 + len(BITS)))
    for cells in forward_times(sizes, device, deadline):
        print_row(*cells)
    print(f"\nA random Llama, calibrated on {sizes.tokens:,} tokens, {SHARE:.0%}, pivoted.\n")
    calibrated(sizes, device, deadline)


if __name__ == "__main__":
    main()
