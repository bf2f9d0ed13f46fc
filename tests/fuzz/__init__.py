"""Damaged files by the hundred thousand: each is read, or refused by an error that is documented.

``python -m tests.fuzz --count N`` takes small files of every format that rmtcli reads, changes some
of their bytes, and hands them to the reader.
"""
