"""Compute what needs the network to run: calibration, the guard's search, refinement, timing.

Every module here needs torch, so this package imports none of them; the pipeline imports a module
when a run needs it. Networks are built from a :class:`~rmtcli.evaluation.Harness`, which also says
how they are fed.
"""
