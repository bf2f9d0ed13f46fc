"""Whatever stops a run: killed, interrupted, no room, no rights, no memory, others at work.

``python -m tests.faults`` goes through every point at which each command writes; the tests take a
part of them.
"""
