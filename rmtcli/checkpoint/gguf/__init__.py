"""GGUF files, which llama.cpp reads, as checkpoints; they are not written.

The header is read here, with every length checked, and the values of tensors in blocks of few bits
are computed by the gguf package.
"""
