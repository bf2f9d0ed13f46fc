"""Fresh processes that have imported torch and transformers already: that takes most of their time.

They fork from a server, as those of :mod:`multiprocessing` do, and take the place of the processes
that ``rmtcli verify`` starts. rmtcli's faces are not imported in the server.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

#: What the server imports.
IMPORTED = [
    "torch",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.quantizers.auto",
]


def run(
    command: Sequence[str], *, env: Mapping[str, str], **_: object
) -> subprocess.CompletedProcess[str]:
    """Run ``python -P -m MODULE FOLDER``, in the place of :func:`subprocess.run`."""
    module, folder = command[-2:]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    process = context.Process(target=_main, args=(module, folder, dict(env)))
    process.start()
    process.join()
    errors = Path(folder, "errors.txt").read_text(errors="replace")
    return subprocess.CompletedProcess(command, process.exitcode or 0, "", errors)


def _main(module: str, folder: str, environment: dict[str, str]) -> None:
    """Run a module in the forked process, with the environment that it would have read."""
    errors = os.open(Path(folder, "errors.txt"), os.O_WRONLY | os.O_CREAT)
    os.dup2(errors, 2)
    os.environ.update(environment)
    import torch
    import transformers.dynamic_module_utils
    from huggingface_hub import constants

    torch.set_num_threads(1)
    constants.HF_HUB_OFFLINE = True
    transformers.dynamic_module_utils.HF_MODULES_CACHE = environment["HF_MODULES_CACHE"]
    sys.argv = [module, folder]
    runpy.run_module(module, run_name="__main__")
