"""Directories whose weights another tool has quantised, read as the values that they stand for.

Each module knows the files of one tool: which tensors hold a weight, and which function of the tool
computes it. The tools are imported only where such a directory is read.
"""
