"""Models that are named as on the Hugging Face Hub."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from rmtcli.checkpoint.formats import find_format
from rmtcli.errors import MissingFileError, first_line
from rmtcli.files import is_remote

#: A name on the Hub: ``organisation/model``.
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
#: Files of other frameworks, which hold the same weights again.
_OTHERS = ["*.h5", "*.msgpack", "*.onnx", "*.ot", "*.tflite", "*.gguf", "onnx/*", "openvino/*"]


def named_on_hub(path: Path) -> bool:
    """Whether a path that does not exist may be the name of a model on the Hub."""
    named = not is_remote(path) and _NAME.fullmatch(str(path)) is not None
    return named and not path.exists() and not path.parent.exists() and find_format(path) is None


def downloaded(path: Path) -> Path:
    """The directory of a model of the Hub, which is downloaded unless it is in the cache.

    Raises:
        MissingFileError: huggingface_hub is not installed, or it cannot download the model.
    """
    command = f"'hf download {path} --local-dir FOLDER'"
    if find_spec("huggingface_hub") is None:
        raise MissingFileError(f"{path}: no such file: if it is a model of the Hub, {command}")
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(str(path), ignore_patterns=_OTHERS))
    # It raises many types of errors, of its own and of the network.
    except Exception as error:
        raise MissingFileError(
            f"{path}: no such file, and it cannot be downloaded from the Hub "
            f"({first_line(error)}): check the name, or try {command}"
        ) from error
