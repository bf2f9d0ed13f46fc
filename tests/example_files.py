"""Files for the examples in the documentation: small networks, and data that they classify well."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import rmtcli
from rmtcli.adapters import AdaptedLayer, Adapter, write_adapter
from rmtcli.checkpoint import encode
from tests.conftest import DIGITS, SAMPLES
from tests.integrations.factored import CASES, WORDS, tokenizer

CLASSES, INPUTS, WIDTH = 10, 100, 160
#: Rank of the layers of the directories' models.
RANK = 3
ARRAYS = ("d.npz", "test.npz", "train.npz", "arrays.npz", "held-out.npz")
#: Model directories in the examples -> the architecture of the small model that replaces them.
DIRECTORIES = {
    "MODEL_DIR": "bert-head",
    "all-MiniLM-L6-v2": "bert",
    "gpt2": "gpt2",
    "bert-sst2": "bert-head",
}
TEXTS = ("sentences.txt", "others.txt", "text.txt", "held-out.txt")


class Network(nn.Module):
    """Five linear layers, named like those of the sample models."""

    def __init__(self) -> None:
        super().__init__()
        for i, inputs in enumerate((INPUTS, *[WIDTH] * 4), 1):
            self.add_module(f"fc{i}", nn.Linear(inputs, CLASSES if i == 5 else WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(1, 5):
            x = getattr(self, f"fc{i}")(x).relu()
        return self.fc5(x)  # type: ignore[no-any-return, operator]


def arrays(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples from ten well-separated clusters, and the cluster of each."""
    centres = np.random.default_rng(0).standard_normal((CLASSES, INPUTS))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    samples = centres[labels] + 0.4 * rng.standard_normal((count, INPUTS))
    return samples.astype(np.float32), labels


def names() -> dict[str, object]:
    """What the examples in Python call a network, its class, its data and a measure of it."""
    x, y = map(torch.tensor, arrays(256, 3))

    def accuracy(network: nn.Module, samples: tuple[torch.Tensor, torch.Tensor]) -> float:
        return 100 * float((network(samples[0]).argmax(1) == samples[1]).float().mean())

    loader = DataLoader(TensorDataset(x, y), batch_size=64)
    own = {"model": Network(), "Net": Network, "loader": loader}
    return own | {"val": (x, y), "accuracy": accuracy}


def write_network(folder: Path) -> None:
    """Write a briefly trained network under the names in the examples, and its data."""
    torch.manual_seed(0)
    network = Network()
    x, y = arrays(1024, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(12):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(
                network(torch.tensor(x[rows])), torch.tensor(y)[rows]
            )
            loss.backward()
            optimizer.step()
    state = {name: value.detach() for name, value in network.state_dict().items()}
    torch.save(state, folder / "model.pt")
    for name in ("model", "before"):
        save_file(state, folder / f"{name}.safetensors")
    noise = {name: value + 1e-4 * torch.randn_like(value) for name, value in state.items()}
    save_file(noise, folder / "after.safetensors")
    inputs, targets = arrays(1000, 2)
    held_out = {"inputs": inputs, "targets": targets, "train_inputs": x, "train_targets": y}
    for name in ARRAYS:
        np.savez(folder / name, **held_out)


def write_samples(folder: Path) -> None:
    """Write links to the sample models, and a tenth of their images."""
    (folder / SAMPLES.name).mkdir()
    for name in ("mnist_mlp.safetensors", "mnist_deep.pt"):
        (folder / SAMPLES.name / name).symlink_to(SAMPLES / name)
    with np.load(SAMPLES / "mnist.npz") as images:
        np.savez(folder / SAMPLES.name / "mnist.npz", **{k: images[k][:1000] for k in images.files})


def write_digits(folder: Path) -> None:
    """Put the network of the tests, which is smaller, in the place of the deep sample model."""
    samples = folder / SAMPLES.name
    (samples / "mnist_deep.pt").unlink()
    (samples / "mnist_deep.pt").symlink_to(DIGITS / "digits.pt")
    with np.load(DIGITS / "digits.npz") as images:
        np.savez(samples / "mnist.npz", **{k: images[k][:1000] for k in images.files})


def write_directories(folder: Path) -> None:
    """Write models whose layers have low rank, so that pruning does little harm, and text."""
    words = tokenizer(256)
    for name, case in DIRECTORIES.items():
        config: Any = CASES[case].config
        for length in ("max_position_embeddings", "n_positions"):
            if hasattr(config, length):
                config = type(config).from_dict(config.to_dict() | {length: 256})
        model = type(CASES[case].model())(config)
        model.save_pretrained(folder / name)
        words.save_pretrained(folder / name)
        weights = load_file(folder / name / "model.safetensors")
        for key, value in weights.items():
            if value.ndim == 2 and "embed" not in key and min(value.shape) >= 32:
                left, right = (torch.randn(side, RANK) for side in value.shape)
                weights[key] = 0.1 * left @ right.T + 1e-3 * torch.randn(value.shape)
        save_file(weights, folder / name / "model.safetensors", metadata={"format": "pt"})
    embedding = folder / "all-MiniLM-L6-v2"
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (embedding / "modules.json").write_text(json.dumps(modules))
    (embedding / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (embedding / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    rng = np.random.default_rng(0)
    for name in TEXTS:
        lines = [" ".join(rng.choice(WORDS, size)) for size in rng.integers(3, 20, 120)]
        (folder / name).write_text("\n".join(lines))
    for name in ("train.jsonl", "test.jsonl"):
        texts = [" ".join(rng.choice(WORDS, 8)) for _ in range(300)]
        lines = (json.dumps({"text": t, "label": i % 2}) for i, t in enumerate(texts))
        (folder / name).write_text("\n".join(lines))


def write_adapters(folder: Path) -> None:
    """Write an adapter of MODEL_DIR's queries and values, in both styles, and MODEL_DIR tuned."""
    weights = load_file(folder / "MODEL_DIR" / "model.safetensors")
    shutil.copytree(folder / "MODEL_DIR", folder / "TUNED_DIR")
    tuned = {
        name: weight + 0.1 * torch.randn(len(weight), 1) @ torch.randn(1, weight.shape[-1])
        if weight.ndim == 2
        else weight
        for name, weight in weights.items()
    }
    save_file(tuned, folder / "TUNED_DIR" / "model.safetensors", metadata={"format": "pt"})
    layers = []
    for name, weight in weights.items():
        if name.endswith(("query.weight", "value.weight")):
            left, right = (
                0.1 * torch.randn(shape).numpy()
                for shape in ((len(weight), 24), (24, weight.shape[1]))
            )
            factors = (encode(factor, "F32") for factor in (left, right))
            layers.append(AdaptedLayer(name.removesuffix(".weight"), *factors, 24))
    adapter = Adapter(folder / "adapter", tuple(layers), base="MODEL_DIR")
    write_adapter(adapter, folder / "adapter")
    write_adapter(adapter, folder / "style.safetensors", style="kohya")


def write_small(folder: Path, source: str, target: str) -> None:
    """Write a pruned copy of one of them."""
    rmtcli.prune(folder / source, folder / target, keep="rank:k=6")
