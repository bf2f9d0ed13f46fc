"""Directories as transformers and sentence-transformers write them.

A directory is a checkpoint with a configuration (:mod:`~rmtcli.checkpoint.huggingface.config`),
which tells facts that the tensors do not: orientation, vocabulary, quantisation. What is written
(:mod:`~rmtcli.checkpoint.huggingface.write`) must be loadable by its name alone, so factors always
have a linear layer's orientation.
"""

from rmtcli.checkpoint.huggingface.code import refuse_code, refuse_code_beside
from rmtcli.checkpoint.huggingface.config import read_object

__all__ = ["read_object", "refuse_code", "refuse_code_beside"]
