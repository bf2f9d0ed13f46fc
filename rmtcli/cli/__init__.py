"""The command line: parse, call one library function, render.

Nothing here imports torch, scipy or numpy before a command runs: ``rmtcli --help`` answers at once.
"""
