"""ONNX files: their initialisers as a network's tensors, and their graphs changed with these.

The onnx package parses a file and does no more: nothing in a file is run, and its external data are
read by this package. What is above sees the tensors of a torch module, whose weights are out × in.
"""
