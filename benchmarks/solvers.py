"""Eigenvalue solvers, full and partial: docs/benchmarks-speed.md.

    python -m benchmarks.solvers [--sides 1024 2048 4096] [--seeds 5]

Square matrices of noise with ten planted directions at twice the detection limit; CPU seconds with
one thread, without the Gram matrix, minimum of three runs. "Same rank" is the share of the matrices
of benchmarks.edges (all shapes, noises and planted directions, ``--seeds`` of each) in which the
rank equals that of ``select`` on eigenvalues from ``numpy.linalg.eigvalsh``. "Zeros" is the share
of the 974 eigenvalues 0 of a square matrix of rank 50 that come out as rounding errors of float64,
at most p·eps times the largest one. Prints Markdown.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy
import torch
from scipy.linalg import lapack
from scipy.sparse.linalg import eigsh
from threadpoolctl import threadpool_limits

from benchmarks.edges import NOISE, PLANTED, SHAPES, UNEQUAL
from benchmarks.speed import header, row
from rmtcli.edges import EDGES
from rmtcli.edges.base import Noise
from rmtcli.law.marchenko_pastur import MarchenkoPastur
from rmtcli.noise import NOISES, planted
from rmtcli.spectra import Spectrum, spectrum, tall
from rmtcli.spectra.lapack import call
from rmtcli.spectra.tridiagonal import reduce

Array = np.ndarray
SPIKES, BETA = 10, 0.1


def ours(gram: Array) -> Array:
    """Eigenvalues as rmtcli computes them: from a tridiagonal form that can also give vectors."""
    return reduce(np.array(gram, order="F")).values()


def single(gram: Array) -> Array:
    """Eigenvalues from a tridiagonal form in float32, of a Gram matrix in float64."""
    p = len(gram)
    lower = np.array(gram, np.float32, order="F")
    diagonal, beside, scales = (np.empty(p, np.float32) for _ in range(3))
    work = np.empty(64 * p, np.float32)
    call("ssytrd", "L", p, lower, p, diagonal, beside, scales, work, len(work))
    values = diagonal.astype(np.float64)
    call("dsterf", p, values, beside.astype(np.float64))
    return values


def two_stage(gram: Array) -> Array:
    """Eigenvalues by LAPACK's dsyevd_2stage, to which SciPy has no public interface."""
    (path,) = (Path(scipy.__file__).parents[1] / "scipy.libs").glob("*openblas*")
    routine = ctypes.CDLL(str(path)).scipy_dsyevd_2stage_
    p = len(gram)
    matrix, values, info = np.array(gram, order="F"), np.empty(p), ctypes.c_int()

    def run(work: Array, size: int, whole: Array, length: int) -> None:
        side, sizes = ctypes.byref(ctypes.c_int(p)), (ctypes.c_int(size), ctypes.c_int(length))
        a, w, x, i = (
            array.ctypes.data_as(ctypes.c_void_p) for array in (matrix, values, work, whole)
        )
        one = ctypes.c_size_t(1)
        routine(
            *(b"N", b"L", side, a, side, w, x, ctypes.byref(sizes[0]), i, ctypes.byref(sizes[1])),
            *(ctypes.byref(info), one, one),
        )
        assert info.value == 0

    work, whole = np.empty(1), np.ones(1, np.intc)
    run(work, -1, whole, -1)
    size, length = int(work[0]), max(1, int(whole[0]))
    run(np.empty(size), size, np.empty(length, np.intc), length)
    return values


def band_first(gram: Array, width: int = 64) -> Array:
    """Eigenvalues in two stages: a band by blocks of reflections, and LAPACK's dsbtrd for the band.

    Both sides of what follows a panel are multiplied by its reflections I − V T Vᵀ, as one update
    of rank two times the width (Bischof, Lang and Sun, 2000). Unlike dsytrd, all but the band's own
    reduction are products of matrices.
    """
    p = len(gram)
    a = np.array(gram, order="F")
    for start in range(0, p - width - 1, width):
        rows = p - start - width
        k = min(width, rows)
        panel = np.array(a[start + width :, start : start + width], order="F")
        scales, work, t = np.empty(k), np.empty(64 * width), np.zeros((k, k), order="F")
        call("dgeqrf", rows, width, panel, rows, scales, work, len(work))
        v = np.tril(panel[:, :k], -1)
        v[np.arange(k), np.arange(k)] = 1
        v = np.asfortranarray(v)
        call("dlarft", "F", "C", rows, k, v, rows, scales, t, k)
        a[start + width :, start : start + width] = 0
        a[start + width : start + width + k, start : start + width] = np.triu(panel[:k])
        vt, rest = np.asfortranarray(v @ t), a[start + width :, start + width :]
        x = np.empty((rows, k), order="F")
        call("dsymm", "L", "L", rows, k, 1.0, rest, p, vt, rows, 0.0, x, rows)
        w = np.asfortranarray(x - v @ (t.T @ (v.T @ x)) / 2)
        call("dsyr2k", "L", "N", rows, k, -1.0, v, rows, w, rows, 1.0, rest, p)
    band = np.zeros((width + 1, p), order="F")
    for i in range(width + 1):
        band[i, : p - i] = a.diagonal(-i)
    values, beside, none, work = np.empty(p), np.empty(p), np.empty(1), np.empty(p)
    call("dsbtrd", "N", "L", p, width, band, width + 1, values, beside, none, 1, work)
    call("dsterf", p, values, beside)
    return values


def mkl(gram: Array) -> Array:
    """Eigenvalues by torch."""
    return torch.linalg.eigvalsh(torch.from_numpy(gram)).numpy()


def inertia(gram: Array) -> int:
    """Count the eigenvalues above a threshold by the signs of D in LDLᵀ."""
    p = len(gram)
    shifted = gram - float(np.trace(gram)) / p * np.eye(p)
    factors, pivots, _ = lapack.dsytrf(shifted, lower=1, lwork=64 * p)
    alone = pivots > 0
    # A block of two has one eigenvalue of each sign.
    return int(np.count_nonzero(np.diag(factors)[alone] > 0) + np.count_nonzero(~alone) // 2)


def lanczos(gram: Array) -> Array:
    """The largest eigenvalues only, one more than there are spikes."""
    return np.asarray(eigsh(gram, SPIKES + 1, return_eigenvectors=False, tol=1e-8))


def subspace(gram: Array) -> Array:
    """The largest eigenvalues by subspace iteration with polynomials small below the edge."""
    p = len(gram)
    edge = MarchenkoPastur(1.0, math.sqrt(float(np.trace(gram)) / p / p)).lambda_plus * p
    x = np.linalg.qr(np.random.default_rng(0).standard_normal((p, 2 * SPIKES)))[0]
    before = np.zeros(2 * SPIKES)
    for _ in range(40):
        low, high = x, (2 / edge) * (gram @ x) - x
        for _ in range(9):
            low, high = high, 2 * ((2 / edge) * (gram @ high) - high) - low
        x = np.linalg.qr(high)[0]
        values, rotation = np.linalg.eigh(x.T @ (gram @ x))
        x = x @ rotation
        if np.allclose(values[-SPIKES:], before[-SPIKES:], rtol=1e-8):
            break
        before = values
    return values


def by_moments(weight: Array) -> int:
    """Rank from sigma by the first moment without spikes, using only eigenvalues above the edge."""
    upright = tall(weight).astype(np.float64)
    n, p = upright.shape
    values = np.linalg.eigvalsh(upright.T @ upright) / n  # in place of Lanczos, which is as exact
    total, spikes = float(np.sum(upright**2)) / n, 0
    for _ in range(20):
        sigma = math.sqrt((total - float(values[p - spikes :].sum())) / (p - spikes))
        edge = Noise.of(MarchenkoPastur(p / n, sigma), p).edge(BETA)
        above = min(int(np.count_nonzero(values > edge)), p // 2)
        if above <= spikes:
            break
        spikes = above
    return spikes


def cut(values: Array) -> Array:
    """Eigenvalues, with those below rounding set to 0 as in rmtcli."""
    return np.where(values > len(values) * np.finfo(np.float64).eps * values[-1], values, 0)


def solved(weight: Array, solve: Callable[[Array], Array]) -> Spectrum:
    """Spectrum by a solver."""
    upright = tall(weight).astype(np.float64)
    n, p = upright.shape
    return Spectrum(cut(solve(upright.T @ upright)) / n, n, p)


def agreement(seeds: int) -> dict[str, str]:
    """Share of the test matrices in which the rank equals the reference, for each solver."""
    cells = [((round(p / g), p), kind, {}) for kind in ("gaussian", "uniform") for g, p in NOISE]
    cells += [(s, "gaussian", {"rank": r, "times": t}) for s in SHAPES for r, t in PLANTED]
    cells += [(shape, kind, {}) for shape, kind in UNEQUAL]
    select, same, count = EDGES.parse("select"), {"ours": 0, "single": 0, "moments": 0}, 0
    for shape, kind, signal in cells:
        for seed in range(seeds):
            rng = np.random.default_rng([seed, *shape])
            weight = planted(rng, shape, NOISES.parse(kind), **signal)
            first = solved(weight, np.linalg.eigvalsh)
            rank = first.count_above(select.fit(first, weight).edge)
            others = {"ours": spectrum(weight), "single": solved(weight, single)}
            for name, other in others.items():
                same[name] += other.count_above(select.fit(other, weight).edge) == rank
            same["moments"] += by_moments(weight) == rank
            count += 1
    return {name: f"{100 * equal / count:.1f} % of {count}" for name, equal in same.items()}


def zeros(solve: Callable[[Array], Array | int]) -> str:
    """Share of the eigenvalues 0 that a solver gives as such."""
    p, rank = 1024, 50
    rng = np.random.default_rng(0)
    w = rng.standard_normal((p, rank)) @ rng.standard_normal((rank, p))
    values = solve(w.T @ w)
    if np.size(values) != p:
        return ""
    return f"{100 * np.count_nonzero(cut(np.asarray(values)) == 0) / (p - rank):.0f} %"


SOLVERS: dict[str, tuple[Callable[[Array], Array | int], str]] = {
    "eigvalsh of numpy (OpenBLAS)": (np.linalg.eigvalsh, "100 %, by definition"),
    "dsytrd and dsterf, as in rmtcli": (ours, "ours"),
    "ssytrd and dsterf: a form in float32": (single, "single"),
    "two-stage, dsyevd_2stage (OpenBLAS)": (two_stage, "equal to rounding"),
    "two-stage, products in NumPy, then dsbtrd": (band_first, "equal to rounding"),
    "eigvalsh of torch (MKL)": (mkl, "equal to rounding"),
    "LDLᵀ, one count": (inertia, "needs dozens of counts"),
    "Lanczos, spikes alone; sigma by moments": (lanczos, "moments"),
    "Chebyshev subspace iteration, spikes alone; sigma by moments": (subspace, "moments"),
}


def main() -> None:
    """Time each solver at each size and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        ranks = agreement(arguments.seeds)
        found = {name: zeros(solve) for name, (solve, _) in SOLVERS.items()}
        times: dict[str, list[float]] = {name: [] for name in SOLVERS}
        for side in arguments.sides:
            rng = np.random.default_rng(side)
            w = planted(rng, (side, side), NOISES.parse("gaussian"), rank=SPIKES, times=2.0)
            gram = w.T @ w
            for name, (solve, _) in SOLVERS.items():
                runs = []
                for _ in range(3):
                    start = time.process_time()
                    solve(gram)
                    runs.append(time.process_time() - start)
                times[name].append(min(runs))
    header("solver", *(f"{side}, s" for side in arguments.sides), "same rank", "zeros")
    for name, (_, known) in SOLVERS.items():
        seconds = (f"{value:.2f}" for value in times[name])
        row(name, *seconds, ranks.get(known, known), found[name])


if __name__ == "__main__":
    main()
