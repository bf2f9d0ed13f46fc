"""Factored networks in other programs: loading them with transformers, pruning in their trainers.

Each module needs the program that it is for, so this package imports none of them.
:mod:`~rmtcli.integrations.rmtcli_loading` is copied into every factored directory that rmtcli
writes, and must work without rmtcli; :mod:`~rmtcli.integrations.transformers` registers its classes
in this process. :mod:`~rmtcli.integrations.trainer` and :mod:`~rmtcli.integrations.lightning` prune
while a network trains; :mod:`~rmtcli.integrations.callback` has what they share.
:mod:`~rmtcli.integrations.onnx` writes networks in few bits as ONNX files, and
:mod:`~rmtcli.integrations.vllm` is a plug-in of vLLM.
"""
