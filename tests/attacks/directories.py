"""Directories that link to other files, or contain code."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file

from rmtcli.verification.directory import LOADING
from tests.attacks import CANARY, attack
from tests.conftest import model_directory

SECRET = "secret"


def _model(folder: Path, **config: object) -> Path:
    """Write a complete directory, and secrets beside it."""
    torch.manual_seed(0)
    state = {f"{i}.weight": torch.randn(40, 40) for i in range(3)}
    (folder / "secret.txt").write_text(SECRET)
    save_file({"s.weight": torch.randn(40, 40)}, folder / "secret.safetensors")
    return model_directory(folder / "m", state, {"model_type": "bert", **config}, shards=2)


for _name in ("..", "../secret.safetensors", "/etc/passwd", "", ".", "sub/x.safetensors", "a\x00b"):

    @attack(f"index: a shard {_name!r}", named="m/model.safetensors.index.json")
    def _index(folder: Path, name: str = _name) -> str:
        model = _model(folder)
        (folder / "config.json").write_text("{}")
        save_file({"0.weight": torch.randn(40, 40)}, folder / "model.safetensors")
        (model / "sub").mkdir()
        index = {"weight_map": {"0.weight": name}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        return "prune m --keep rank:k=2"


@attack("index: a shard that is the index", named="m/model.safetensors.index.json")
def _itself(folder: Path) -> str:
    index = {"weight_map": {"0.weight": "model.safetensors.index.json"}}
    (_model(folder) / "model.safetensors.index.json").write_text(json.dumps(index))
    return "prune m --keep rank:k=2"


for _name in ("../m", "/", "..", "x/../../m"):

    @attack(f"modules.json: a module {_name!r}", named="m/modules.json")
    def _modules(folder: Path, name: str = _name) -> str:
        model = _model(folder)
        (model / "modules.json").write_text(json.dumps([{"path": name}, {"path": name}]))
        return "prune m --keep rank:k=2"


@attack("modules.json: a hundred thousand deep", named="m/modules.json")
def _deep(folder: Path) -> str:
    (_model(folder) / "modules.json").write_text("[" * 100_000)
    return "prune m --keep rank:k=2"


@attack("config.json: a hundred thousand deep", named="m/config.json")
def _deep_config(folder: Path) -> str:
    (_model(folder) / "config.json").write_text('{"a":' * 100_000)
    return "prune m --keep rank:k=2"


@attack("config.json: five hundred objects deep", code=0)
def _nested_config(folder: Path) -> str:
    model = _model(folder)
    (model / "config.json").write_text('{"a":' * 500 + "1" + "}" * 500)
    return "prune m --keep rank:k=2"


@attack("config.json: a vocabulary of the size of every layer", code=0)
def _vocabulary(folder: Path) -> str:
    _model(folder, vocab_size=40, quantization_config=[1])
    return "info m"


@attack("config.json: quantised by a list", named="m")
def _quantised(folder: Path) -> str:
    _model(folder, quantization_config=["gptq"], auto_map=["x"])
    return "prune m --keep rank:k=2"


@attack("link: a file that would be copied links to a secret", named="m/vocab.txt")
def _link(folder: Path) -> str:
    (_model(folder) / "vocab.txt").symlink_to("../secret.txt")
    return "prune m --keep rank:k=2"


@attack("link: a file that would be copied is endless", named="m/vocab.txt")
def _zero(folder: Path) -> str:
    (_model(folder) / "vocab.txt").symlink_to("/dev/zero")
    return "prune m --keep rank:k=2"


@attack("link: a folder links to secrets", code=0)
def _folder(folder: Path) -> str:
    """Links to folders are not followed, and no file in them is copied."""
    model = _model(folder)
    (folder / "secrets").mkdir()
    (folder / "secrets/secret.txt").write_text(SECRET)
    (model / "more").symlink_to("../secrets")
    return "prune m --keep rank:k=2 --plan p.json"


@attack("link: a link to itself", named="m")
def _loop(folder: Path) -> str:
    model = _model(folder)
    (model / "config.json").unlink()
    (model / "config.json").symlink_to("config.json")
    (model / "modules.json").write_text('[{"path": ""}]')
    return "prune m --keep rank:k=2"


@attack("link: a link to a file that does not exist", named="m/vocab.txt")
def _nowhere(folder: Path) -> str:
    (_model(folder) / "vocab.txt").symlink_to("none.txt")
    return "prune m --keep rank:k=2"


@attack("pipe: instead of a file", code=2)
def _pipe(folder: Path) -> str:
    os.mkfifo(folder / "a.safetensors")
    return "info a.safetensors"


@attack("pipe: instead of a configuration", named="m/config.json")
def _config_pipe(folder: Path) -> str:
    model = _model(folder)
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")
    return "prune m --keep rank:k=2"


@attack("pipe: among the files to copy", named="m/vocab.txt")
def _copied_pipe(folder: Path) -> str:
    os.mkfifo(_model(folder) / "vocab.txt")
    return "prune m --keep rank:k=2"


@attack("output: a link to a file of someone else's", code=2, named="out.safetensors")
def _output(folder: Path) -> str:
    model = _model(folder)
    (folder / "out.safetensors").symlink_to("secret.txt")
    return f"prune {model.name} --keep rank:k=2 -o out.safetensors"


@attack("output: a link to a file of someone else's, with --force", code=0)
def _forced(folder: Path) -> str:
    """The link is replaced; its target is not touched."""
    _model(folder)
    (folder / "out.safetensors").symlink_to("secret.txt")
    return "prune m --keep rank:k=2 -o out.safetensors --force"


@attack("output: a link to a model of someone else's, with --force", code=0)
def _forced_directory(folder: Path) -> str:
    _model(folder)
    other = model_directory(folder / "other", {"a.weight": torch.ones(4, 4)})
    (folder / "out").symlink_to(other.name)
    return "prune m --keep rank:k=2 -o out --force"


@attack("output: a link to the input", code=2, named="out.safetensors")
def _input(folder: Path) -> str:
    _model(folder)
    (folder / "out.safetensors").symlink_to("secret.safetensors")
    return "prune secret.safetensors --keep rank:k=2 -o out.safetensors --force"


_CODE = f"import os\nos.mkdir({CANARY!r})\nclass C: pass\n"


def _remote(folder: Path, file: str, change: dict[str, object]) -> None:
    """Write a BERT whose configuration says that its classes are in a file beside it."""
    from tests.integrations.factored import CASES, tokenizer

    torch.manual_seed(0)
    CASES["bert"].model().save_pretrained(folder / "m")
    tokenizer(256).save_pretrained(folder / "m")
    config = json.loads((folder / "m" / file).read_text())
    (folder / "m" / file).write_text(json.dumps(config | change))
    (folder / "m/evil.py").write_text(_CODE)
    (folder / "t.txt").write_text("\n".join(["a b c"] * 20))


_OWN = {"model_type": "mine", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.C"}}


@attack("code: config.json names a class of its own", named="m")
def _config_code(folder: Path) -> str:
    _remote(folder, "config.json", _OWN)
    return "prune m --data t.txt --task sentence-embedding --keep rank:k=2"


@attack("code: config.json names a class on the Hub", named="m")
def _hub_code(folder: Path) -> str:
    _remote(folder, "config.json", _OWN | {"auto_map": {"AutoConfig": "some/repository--evil.C"}})
    return "evaluate m --data t.txt --task sentence-embedding"


@attack("code: tokenizer_config.json names a class of its own", code=0)
def _tokenizer_code(folder: Path) -> str:
    _remote(folder, "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.C", "evil.C"]}})
    return "evaluate m --data t.txt --task sentence-embedding --against m"


@attack("code: tokenizer_config.json names an unknown class", named="m")
def _tokenizer_class(folder: Path) -> str:
    _remote(
        folder,
        "tokenizer_config.json",
        {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["evil.C", "evil.C"]}},
    )
    (folder / "m/tokenizer.json").unlink()
    return "evaluate m --data t.txt --task sentence-embedding --against m"


def _factored(folder: Path) -> Path:
    torch.manual_seed(0)
    state = {"a.0.weight": torch.randn(2, 40), "a.1.weight": torch.randn(40, 2)}
    config: dict[str, object] = {
        "model_type": "bert",
        "auto_map": {"AutoConfig": "rmtcli_loading.BertConfig"},
        "quantization_config": {"quant_method": "rmtcli", "version": 1, "ranks": {"a": 2}},
    }
    made = model_directory(folder / "m", state, config)
    (made / LOADING.name).write_bytes(LOADING.read_bytes())
    return made


@attack("code: rmtcli_loading.py with an added line", named="m/rmtcli_loading.py")
def _tampered(folder: Path) -> str:
    file = _factored(folder) / LOADING.name
    file.write_bytes(file.read_bytes() + _CODE.encode())
    return "verify m"


@attack("code: a second file beside rmtcli_loading.py", named="m")
def _second(folder: Path) -> str:
    made = _factored(folder)
    config = json.loads((made / "config.json").read_text())
    config["auto_map"]["AutoModel"] = "evil.C"
    (made / "config.json").write_text(json.dumps(config))
    (made / "evil.py").write_text(_CODE)
    return "verify m"


@attack("code: a folder with the name rmtcli_loading.py", named="m")
def _package(folder: Path) -> str:
    made = _factored(folder)
    (made / LOADING.name).unlink()
    (made / LOADING.name).mkdir()
    (made / LOADING.name / "__init__.py").write_text(_CODE)
    return "verify m"


@attack("model card: two million line breaks", code=0)
def _card(folder: Path) -> str:
    (_model(folder) / "README.md").write_text("\n" * 2_000_000)
    return "prune m --keep rank:k=2"


@attack("model card: markers that are not closed", code=0)
def _marks(folder: Path) -> str:
    (_model(folder) / "README.md").write_text("<!-- rmtcli: start -->\n" * 100_000)
    return "prune m --keep rank:k=2"
