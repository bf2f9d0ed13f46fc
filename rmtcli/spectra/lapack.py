"""BLAS and LAPACK as SciPy ships them, called without Python's global interpreter lock.

SciPy's own wrappers of these routines hold the lock, so that threads would wait for one another.
SciPy also publishes the routines' addresses for compiled code (``scipy.linalg.cython_lapack``), and
a call through ctypes releases the lock.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray


def call(routine: str, *arguments: str | float | NDArray[Any]) -> None:
    """Call a routine by its Fortran name, such as ``dsyrk``.

    Args:
        routine: name of the routine.
        arguments: all arguments except LAPACK's last one, ``info``; arrays are changed in place.

    Raises:
        LinAlgError: the routine failed.
    """
    info = ctypes.c_int(0)
    _address(routine)(*(_reference(value) for value in arguments), ctypes.byref(info))
    if info.value:
        raise np.linalg.LinAlgError(f"{routine} failed with {info.value}")


def _reference(value: str | float | NDArray[Any]) -> Any:
    """Return the address of a value, since Fortran takes every argument by reference."""
    if isinstance(value, str):
        return ctypes.c_char_p(value.encode())
    if isinstance(value, np.ndarray):
        return value.ctypes.data_as(ctypes.c_void_p)
    return ctypes.byref(ctypes.c_int(value) if isinstance(value, int) else ctypes.c_double(value))


@cache
def _address(routine: str) -> Callable[..., None]:
    """Return the routine as a ctypes function."""
    for module in _MODULES:
        capsule = module.__pyx_capi__.get(routine)
        if capsule is not None:
            signature = _capsule("PyCapsule_GetName", ctypes.c_char_p)(capsule)
            pointer = _capsule("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_char_p)
            return ctypes.CFUNCTYPE(None)(pointer(capsule, signature))
    raise AttributeError(f"SciPy has no {routine}")


def _compiled(name: str) -> ModuleType:
    """Return a compiled module of ``scipy.linalg`` without importing that package.

    The package takes an eighth of a second, and the module needs nothing of it.
    """
    full = f"scipy.linalg.{name}"
    spec = PathFinder.find_spec(full, [f"{folder}/linalg" for folder in scipy.__path__])
    if spec is None or spec.loader is None:
        return import_module(full)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


#: The modules that know the addresses. They are made here, under the lock of this import, because
#: nothing else keeps a thread from a module that another one is still making.
_MODULES = _compiled("cython_lapack"), _compiled("cython_blas")


def _capsule(name: str, result: Any, *more: Any) -> Callable[..., Any]:
    """Return a function of Python's C interface that takes a capsule."""
    function: Callable[..., Any] = ctypes.PYFUNCTYPE(result, ctypes.py_object, *more)(
        (name, ctypes.pythonapi)
    )
    return function
