"""Directories whose files name code to import, or weights elsewhere to load."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.attacks import CANARY, attack
from tests.attacks.directories import _factored

_PAYLOAD = f"import os\nos.mkdir({CANARY!r})\n"
_ADAPTER = {
    "peft_type": "LORA",
    "task_type": "FEATURE_EXTRACTION",
    "base_model_name_or_path": ".",
    "r": 2,
    "target_modules": ["query"],
    "megatron_config": {"a": 1},
    "megatron_core": "m.evil",
}
#: What an attack adds to a file of a directory, by the name of the attempt.
ADDED: dict[str, tuple[str, dict[str, object]]] = {
    "a kernel of the Hub": ("config.json", {"attn_implementation": "some/kernel@v1:f"}),
    "a kernel for a part": ("config.json", {"_attn_implementation_internal": {"": "a/b"}}),
    "a kernel of a package": ("config.json", {"_attn_implementation": "flash_attention_2"}),
    "a kernel of experts": ("config.json", {"experts_implementation": "sonicmoe"}),
    "code of a part": ("config.json", {"text_config": {"auto_map": {"AutoModel": "evil.C"}}}),
    "code of a part in a list": ("config.json", {"parts": [[{"auto_map": {"A": "x--evil.C"}}]]}),
    "a quantiser of a part": ("config.json", {"text_config": {"quantization_config": {"x": 1}}}),
    "a pickle for timm": ("config.json", {"model_args": {"checkpoint_path": "evil.bin"}}),
    "weights elsewhere": ("config.json", {"transformers_weights": "../secret.safetensors"}),
    "a tokenizer of the Hub": (
        "tokenizer_config.json",
        {"tokenizer_class": "some/repository--evil.Tokenizer"},
    ),
    "another class as tokenizer": ("tokenizer_config.json", {"tokenizer_class": "AutoModel"}),
}


def _add(folder: Path, file: str, entries: dict[str, object]) -> None:
    """Add entries to a file of the directory, and modules that they may name."""
    path = folder / "m" / file
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(values | entries))
    for module in (folder / "m/evil.py", folder / "evil.py", folder / "m/__init__.py"):
        module.write_text(_PAYLOAD)


def _bert(folder: Path) -> None:
    from tests.integrations.factored import CASES, tokenizer

    torch.manual_seed(0)
    CASES["bert"].model().save_pretrained(folder / "m")
    tokenizer(256).save_pretrained(folder / "m")
    (folder / "t.txt").write_text("\n".join(["a b c"] * 20))


for _name, (_file, _entries) in ADDED.items():

    @attack(f"code: {_file} names {_name}", named=f"m/{_file}")
    def _evaluated(folder: Path, file: str = _file, entries: dict[str, object] = _entries) -> str:
        _bert(folder)
        _add(folder, file, entries)
        return "evaluate m --data t.txt --task sentence-embedding --against m"

    @attack(f"code: {_file} of a factored directory names {_name}", named=f"m/{_file}")
    def _verified(folder: Path, file: str = _file, entries: dict[str, object] = _entries) -> str:
        _factored(folder)
        _add(folder, file, entries)
        return "verify m"


@attack("code: another tool's quantiser", named="m/config.json")
def _quantiser(folder: Path) -> str:
    _bert(folder)
    _add(folder, "config.json", {"quantization_config": {"quant_method": "gptq", "bits": 4}})
    return "evaluate m --data t.txt --task sentence-embedding --against m"


@attack("code: an adapter, which names a module", named="m/adapter_config.json")
def _adapter(folder: Path) -> str:
    _factored(folder)
    _add(folder, "adapter_config.json", _ADAPTER)
    return "verify m"


@attack("code: an adapter beside a network that runs", code=0)
def _adapter_beside(folder: Path) -> str:
    """transformers is given the tensors, not the directory, and loads no adapter."""
    _bert(folder)
    _add(folder, "adapter_config.json", _ADAPTER)
    return "evaluate m --data t.txt --task sentence-embedding --against m"


@attack("code: a function that generates text", named="m/custom_generate")
def _generate(folder: Path) -> str:
    made = _factored(folder)
    (made / "custom_generate").mkdir()
    (made / "custom_generate/generate.py").write_text(_PAYLOAD)
    return "verify m"


@attack("code: modules.json names classes of its own", code=0)
def _modules(folder: Path) -> str:
    """sentence-transformers would import them; rmtcli reads folders and pooling alone."""
    _bert(folder)
    modules = [{"path": "", "type": "evil.C"}, {"path": "1_Pooling", "type": "m.evil.C"}]
    (folder / "m/modules.json").write_text(json.dumps(modules))
    for module in (folder / "m/evil.py", folder / "evil.py"):
        module.write_text(_PAYLOAD)
    return "evaluate m --data t.txt --task sentence-embedding --against m"


@attack("code: rmtcli.toml names a function", code=2, named="rmtcli.toml")
def _project(folder: Path) -> str:
    _bert(folder)
    (folder / "evil.py").write_text(_PAYLOAD + "def f(model): return 1.0\n")
    (folder / "rmtcli.toml").write_text('[evaluate]\neval = "evil:f"\n')
    return "evaluate m"


@attack("code: pyproject.toml names a function", code=2, named="pyproject.toml")
def _pyproject(folder: Path) -> str:
    _bert(folder)
    (folder / "evil.py").write_text(_PAYLOAD + "def f(): return 1.0\n")
    (folder / "pyproject.toml").write_text('[tool.rmtcli.prune]\nmodel = "evil:f"\n')
    return "prune m --keep rank:k=2"
