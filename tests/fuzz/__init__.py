"""Hundreds of thousands of damaged files: each is read, or refused with a documented error.

``python -m tests.fuzz --count N`` takes small files of every format that rmtcli reads, changes some
of their bytes, and hands them to the reader.
"""
