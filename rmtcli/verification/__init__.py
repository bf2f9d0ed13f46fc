"""Opening a factored directory as its users will, in processes of its own.

This package has no face on purpose: :mod:`~rmtcli.verification.child` runs in a fresh process that
must import nothing of rmtcli before it is told to.
"""
