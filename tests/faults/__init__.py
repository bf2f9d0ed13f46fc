"""Faults that stop a run: signals, a full disk, missing permissions or memory, other processes.

``python -m tests.faults`` causes them at every point at which each command writes; the tests take a
part of these points.
"""
