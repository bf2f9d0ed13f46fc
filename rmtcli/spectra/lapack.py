"""BLAS and LAPACK as SciPy ships them, without Python's lock.

SciPy's own wrappers of these routines hold the lock, so that threads would wait for one another.
The addresses are those that SciPy gives to compiled code (``scipy.linalg.cython_lapack``); a call
through ctypes lets the lock go.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cython_blas, cython_lapack


def call(routine: str, *arguments: str | float | NDArray[Any]) -> None:
    """Run a routine by its Fortran name, such as ``dsyrk``.

    Args:
        routine: the name.
        arguments: all of them but the last ``info`` of LAPACK; arrays are changed in place.

    Raises:
        LinAlgError: the routine did not succeed.
    """
    info = ctypes.c_int(0)
    _address(routine)(*(_reference(value) for value in arguments), ctypes.byref(info))
    if info.value:
        raise np.linalg.LinAlgError(f"{routine} failed with {info.value}")


def _reference(value: str | float | NDArray[Any]) -> Any:
    """What Fortran is given: everything by its address."""
    if isinstance(value, str):
        return ctypes.c_char_p(value.encode())
    if isinstance(value, np.ndarray):
        return value.ctypes.data_as(ctypes.c_void_p)
    return ctypes.byref(ctypes.c_int(value) if isinstance(value, int) else ctypes.c_double(value))


@cache
def _address(routine: str) -> Callable[..., None]:
    for module in (cython_lapack, cython_blas):
        capsule = module.__pyx_capi__.get(routine)
        if capsule is not None:
            signature = _capsule("PyCapsule_GetName", ctypes.c_char_p)(capsule)
            pointer = _capsule("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_char_p)
            return ctypes.CFUNCTYPE(None)(pointer(capsule, signature))
    raise AttributeError(f"SciPy has no {routine}")


def _capsule(name: str, result: Any, *more: Any) -> Callable[..., Any]:
    found: Callable[..., Any] = ctypes.PYFUNCTYPE(result, ctypes.py_object, *more)(
        (name, ctypes.pythonapi)
    )
    return found
