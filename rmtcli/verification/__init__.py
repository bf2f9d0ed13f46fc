"""Open a factored directory as its users do, each time in a fresh process.

:mod:`~rmtcli.verification.parent` starts the processes, and :mod:`~rmtcli.verification.child` runs
in them. This package exports nothing on purpose: importing it in the fresh process must import
nothing else of rmtcli.
"""
