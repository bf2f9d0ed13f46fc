"""Small valid files of every kind that rmtcli reads, and the functions that read them."""

from __future__ import annotations

import io
import json
import shutil
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from safetensors.torch import save_file
from torch import nn

import rmtcli
from rmtcli.adapters import read_adapter
from rmtcli.calibration import ByLayer, Moments, Origin, read_stats, write_stats
from rmtcli.checkpoint import Checkpoint, Manifest, open_checkpoint
from rmtcli.checkpoint.huggingface import refuse_code
from rmtcli.cli.defaults import defaults
from rmtcli.cli.main import app
from rmtcli.evaluation.data import read_samples
from rmtcli.evaluation.pooling import pooling_of
from rmtcli.evaluation.text import image_samples
from rmtcli.evaluation.which_task import task_of
from rmtcli.keep import Untouched
from rmtcli.layers import Layer, Selection, find_layers
from rmtcli.layouts import Factored, join
from rmtcli.planning import Plan, check_plan
from rmtcli.training.log import read_log
from rmtcli.verification.directory import LOADING, open_factored
from tests.adapters.made import kohya_file, kohya_tensors, peft_directory, two_layers
from tests.checkpoint.ggufs import eight_bits, gguf, plain
from tests.checkpoint.graphs import matmul
from tests.conftest import model_directory

#: Every matrix is a layer, because those of the seeds are tiny.
ALL = Selection(min_side=0)


@dataclass(frozen=True, slots=True)
class Seed:
    """A file to damage.

    Attributes:
        name: kind of the file.
        file: the file whose bytes are changed; others may be beside it.
        read: reads the file as rmtcli does.
    """

    name: str
    file: Path
    read: Callable[[], object]


def state() -> OrderedDict[str, torch.Tensor]:
    """Two layers, tensors of other types, and a tied tensor."""
    torch.manual_seed(0)
    found = nn.Sequential(OrderedDict(fc=nn.Linear(9, 8), out=nn.Linear(8, 6))).state_dict()
    found["half.weight"] = torch.randn(7, 8).bfloat16()
    found["steps"] = torch.arange(3)
    found["tied.weight"] = found["fc.weight"]
    return found


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint as commands do before a layer is decomposed, and every tensor."""
    found = open_checkpoint(path)
    for name in found.infos:
        found.raw(name)
    assert found.bytes >= 0
    assert found.parameters >= 0
    found.ties(found.infos)
    for item in find_layers(found, ALL):
        if isinstance(item, Layer):
            item.load()
    return found


def pruned(path: Path, target: Path) -> None:
    """Prune a checkpoint, and read the output."""
    rmtcli.prune(path, target, keep="rank:k=1", selection=ALL, force=True)
    if target.exists():
        read_checkpoint(target)


def joined(path: Path) -> None:
    """Multiply the factors of a checkpoint."""
    join(open_checkpoint(path))


def write_seeds(folder: Path) -> list[Seed]:
    """Write the file of every seed to ``folder``."""
    seeds: list[Seed] = []

    def add(name: str, file: Path, read: Callable[[], object]) -> None:
        seeds.append(Seed(name, file, read))

    def add_checkpoint(name: str, file: Path, whole: Path | None = None) -> None:
        path = whole or file
        ending = "" if path.is_dir() else path.suffix.replace(".pt2", ".safetensors")
        target = folder / f"out-{name.replace(' ', '-')}{ending}"
        add(name, file, lambda: read_checkpoint(path))
        add(f"{name}, pruned", file, lambda: pruned(path, target))

    tensors = {key: value.clone() for key, value in state().items()}
    record = Manifest("0", "a.pt", "00", "auto", "bema", {"low": 2}, ranks={"low.weight": 2})
    low = {"low.0.weight": torch.randn(2, 6), "low.1.weight": torch.randn(5, 2)}
    save_file(tensors | low, folder / "a.safetensors", metadata={"rmtcli": record.to_json()})
    add_checkpoint("safetensors", folder / "a.safetensors")
    add("densify", folder / "a.safetensors", partial(joined, folder / "a.safetensors"))

    nested = {"epoch": 3, "state_dict": state(), "lr": [0.1, None, {"a": b"x"}]}
    torch.save(nested, folder / "a.pt")
    add_checkpoint("torch", folder / "a.pt")
    torch.save(nested, folder / "old.pt", _use_new_zipfile_serialization=False)
    add_checkpoint("torch, legacy", folder / "old.pt")

    network = nn.Sequential(OrderedDict(fc=nn.Linear(9, 8), out=nn.Linear(8, 6))).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, torch.ones(1, 9)), folder / "script.pt")  # type: ignore[no-untyped-call]
        buffer = io.BytesIO()
        torch.export.save(torch.export.export(network, (torch.ones(1, 9),)), buffer)
    (folder / "program.pt2").write_bytes(buffer.getvalue())
    add_checkpoint("TorchScript", folder / "script.pt")
    add_checkpoint("torch.export", folder / "program.pt2")

    (folder / "graph.onnx").write_bytes(matmul().SerializeToString())
    add_checkpoint("ONNX", folder / "graph.onnx")

    values = {
        name: plain(value.float()) for name, value in tensors.items() if value.is_floating_point()
    }
    if find_spec("gguf") is not None:
        values["blocks.weight"] = eight_bits(torch.ones(8, 64).numpy())
    (folder / "a.gguf").write_bytes(gguf(values))
    add("GGUF", folder / "a.gguf", lambda: read_checkpoint(folder / "a.gguf"))

    shards = model_directory(folder / "shards", tensors, {"model_type": "bert"}, shards=2)
    (shards / "modules.json").write_text(
        '[{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Pooling"}]'
    )
    for file in ("config.json", "model.safetensors.index.json", "modules.json"):
        add_checkpoint(f"directory {file}", shards / file, shards)
    add_checkpoint("shard", shards / "model-00001-of-00002.safetensors", shards)
    pickled = model_directory(folder / "bin", tensors, container="bin")
    add_checkpoint("directory of a pickle", pickled / "pytorch_model.bin", pickled)

    seeds += described_seeds(folder / "described", tensors)
    seeds += packed_seeds(folder / "packed")

    made = model_directory(
        folder / "made",
        low,
        {
            "model_type": "bert",
            "auto_map": {"AutoConfig": "rmtcli_loading.BertConfig"},
            "quantization_config": {"quant_method": "rmtcli", "version": 1, "ranks": {"low": 2}},
        },
    )
    (made / LOADING.name).write_bytes(LOADING.read_bytes())
    for file in (made / "config.json", made / "model.safetensors", made / LOADING.name):
        add(f"factored {file.name}", file, lambda: open_factored(made))

    dense = open_checkpoint(save(tensors, folder / "dense.safetensors"))
    plan = rmtcli.prune(dense.path, keep="rank:k=1", selection=ALL, dry_run=True).plan
    assert plan is not None
    (folder / "plan.json").write_text(plan.to_json())

    def carry_out() -> None:
        layers = list(find_layers(dense, ALL))
        check_plan(Plan.read(folder / "plan.json"), dense, layers, Factored())

    add("plan", folder / "plan.json", carry_out)

    moments = Moments(20, 10, np.zeros(9), np.eye(9), np.eye(8))
    origin = Origin("a", "b", gradients=True, network="chain")
    write_stats(
        folder / "stats.safetensors",
        ByLayer({"fc.weight": moments}, {"x": Untouched.NO_DATA}),
        origin,
    )
    add(
        "statistics", folder / "stats.safetensors", lambda: read_stats(folder / "stats.safetensors")
    )

    arrays = {"inputs": np.ones((6, 9), np.float32), "targets": np.arange(6)}
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    add("data", folder / "data.npz", lambda: read_samples(folder / "data.npz"))
    save({k: torch.tensor(v) for k, v in arrays.items()}, folder / "data.safetensors")
    add(
        "data as safetensors",
        folder / "data.safetensors",
        lambda: read_samples(folder / "data.safetensors"),
    )

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    project = folder / "project"
    project.mkdir()
    (project / "rmtcli.toml").write_text('[prune]\nkeep = "edge"\ndry-run = true\nheal = 3\n')
    add("rmtcli.toml", project / "rmtcli.toml", lambda: defaults(commands, project))
    (project / "pyproject.toml").write_text('[tool.rmtcli.prune]\nkeep = "edge"\n')

    rows = [{"time": i, "parameters": 9, "layer": "fc", "rank": 2, "loss": 0.5} for i in range(3)]
    (folder / "log.json").write_text(json.dumps(rows))
    add("training log", folder / "log.json", lambda: read_log(folder / "log.json"))
    (folder / "log.csv").write_text("time,parameters,layer,rank,loss\n1,9,fc,2,0.5\n2,9,fc,2,\n")
    add("training log as CSV", folder / "log.csv", lambda: read_log(folder / "log.csv"))
    return seeds + adapter_seeds(folder) + pair_seeds(folder)


def adapter_seeds(folder: Path) -> list[Seed]:
    """Adapters in both styles; they are resized, and merged into a base."""
    peft, style = folder / "adapter", folder / "style.safetensors"
    peft_directory(peft, two_layers())
    kohya_file(style, kohya_tensors())
    sizes = {"layers.0.q": (12, 10), "layers.0.v": (8, 10), "a.to_q": (12, 10)}
    weights = {f"{name}.weight": torch.ones(size) for name, size in sizes.items()}
    weights["conv.weight"] = torch.ones(12, 3, 3, 3)
    base = save(weights, folder / "adapted.safetensors")

    def use(adapter: Path) -> None:
        target = folder / f"resized{adapter.suffix}"
        rmtcli.resize(adapter, target, keep="rank:k=2", force=True)
        read_adapter(target)
        rmtcli.merge(base, adapter, folder / "merged.safetensors", force=True)
        rmtcli.analyze(adapter)
        rmtcli.diff(target, adapter)

    files = {peft / name: peft for name in ("adapter_config.json", "adapter_model.safetensors")}
    files[style] = style
    return [Seed(f"adapter {x.name}", x, partial(use, whole)) for x, whole in files.items()]


def pair_seeds(folder: Path) -> list[Seed]:
    """A base, a tuned network and one in few bits, each of which is damaged in turn."""
    generator = torch.Generator().manual_seed(3)
    weights = {f"{name}.weight": torch.randn(64, 64, generator=generator) for name in "ab"}
    base = save(weights | {"a.bias": torch.ones(64)}, folder / "before.safetensors")
    moved = {name: tensor + 0.01 * tensor.flip(0) for name, tensor in weights.items()}
    tuned = save(moved | {"a.bias": torch.zeros(64)}, folder / "after.safetensors")
    factored = folder / "factors.safetensors"
    rmtcli.prune(base, factored, keep="rank:k=8", bits=4, verify=False)

    def adapted(make: Callable[..., object], first: Path, second: Path) -> None:
        target = folder / "of-two"
        shutil.rmtree(target, ignore_errors=True)
        make(first, second, target, keep="rank:k=2")
        if target.exists():
            read_adapter(target)

    extract, repair = (partial(adapted, make) for make in (rmtcli.extract, rmtcli.repair))
    return [
        Seed("extract, base", base, partial(extract, base, tuned)),
        Seed("extract, tuned", tuned, partial(extract, base, tuned)),
        Seed("repair, few bits", factored, partial(repair, base, factored)),
    ]


def described_seeds(described: Path, tensors: dict[str, torch.Tensor]) -> list[Seed]:
    """The JSON files of a sentence-transformers directory, read as before a network runs."""
    model_directory(described, tensors, {"model_type": "bert", "label2id": {"a": 0, "b": 1}})
    (described / "1_Pooling").mkdir()
    np.savez(described / "images.npz", inputs=np.ones((2, 3, 2, 2), np.uint8))
    nested = {"attn_implementation": "sdpa", "text_config": {"vocab_size": 9, "parts": [{"a": 1}]}}
    files: dict[str, object] = {
        "config.json": {"model_type": "bert", "label2id": {"a": 0}, **nested},
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "model_max_length": 8},
        "modules.json": [{"path": "", "type": "x.Transformer"}, {"path": "1_Pooling"}],
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True, "word_embedding_dimension": 8},
        "preprocessor_config.json": {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3]},
        "adapter_config.json": {"peft_type": "LORA", "r": 2, "target_modules": ["q"]},
    }

    def read() -> None:
        open_checkpoint(described)
        refuse_code(described)
        task_of(described, None)
        pooling_of(described)
        image_samples(described / "images.npz", described, "")

    seeds = []
    for name, values in files.items():
        (described / name).write_text(json.dumps(values))
        seeds.append(Seed(f"described {name}", described / name, read))
    return seeds


def packed_seeds(folder: Path) -> list[Seed]:
    """Files and directories in few bits, with dense, factored and pivoted layers and a table."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"a.weight": (40, 9), "b.weight": (6, 40), "c.weight": (33, 34), "emb.weight": (35, 4)}
    tensors = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
    dense = model_directory(folder / "dense", tensors | {"b.bias": torch.ones(6)})
    factored = Selection(include=["c.weight"], min_side=0)

    def made(bits: int, **options: Any) -> Path:
        target = folder / f"{bits}{options.get('ending', '')}"
        source = dense if target.suffix == "" else dense / "model.safetensors"
        options.pop("ending", None)
        rmtcli.prune(source, target, bits=bits, selection=factored, **options)
        return target

    few = made(3, ending=".safetensors", keep="rank:k=2")
    torched = made(4, ending=".pt", keep="rank:k=2", layout="pivoted")
    split = made(5, keep="rank:k=2", layout="pivoted")
    plain = made(8, keep="fraction:of=1.0")
    seeds = []
    for whole in (few, torched, split, plain):
        inside = [whole / "config.json", whole / "model.safetensors"]
        for file in inside if whole.is_dir() else [whole]:
            name = f"packed {file.relative_to(folder)}"
            seeds.append(Seed(name, file, partial(read_checkpoint, whole)))
            if whole is split:
                seeds.append(Seed(f"{name}, verified", file, partial(open_factored, whole)))
        if whole is not plain:
            seeds.append(Seed(f"{name}, joined", file, partial(joined, whole)))
        if whole is not torched:
            target = folder / f"out-{whole.name}"
            seeds.append(Seed(f"{name}, pruned", file, partial(pruned, whole, target)))
    return seeds


def save(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    save_file(tensors, path)
    return path
