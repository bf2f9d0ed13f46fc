"""The command line, one module per command: parse, call one library function, show the result.

The options are in :mod:`rmtcli.cli.options`, and :class:`~rmtcli.cli.reporter.Reporter` begins and
ends every command. No module imports torch, scipy or numpy before a command runs, so that
``rmtcli --help`` answers at once.
"""
