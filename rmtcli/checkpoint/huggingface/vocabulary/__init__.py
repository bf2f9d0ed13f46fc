"""Dropping tokens from a directory's tokenizer and from every tensor that has a row for each.

:mod:`.models` knows which tokens the kept ones need in each kind of tokenizer, :mod:`.cut` says
which tokens are kept and under which numbers, :mod:`.weights` cuts the tensors, and :mod:`.files`
rewrites the tokenizer's files and the numbers of tokens in configurations.
"""

from rmtcli.checkpoint.huggingface.vocabulary.cut import REMOVED, Cut, check, make_cut
from rmtcli.checkpoint.huggingface.vocabulary.files import rewrite_files
from rmtcli.checkpoint.huggingface.vocabulary.weights import without_rows

__all__ = ["REMOVED", "Cut", "check", "make_cut", "rewrite_files", "without_rows"]
