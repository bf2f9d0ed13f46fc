"""A causal language model of the benchmarks' own: docs/benchmarks-transformers.md.

    pip install transformers sympy
    python -m benchmarks.language [--folder DIR] [--share 70 50 35] [--bits 8 6 4 3]

A Llama of four blocks (4.3 million parameters) is trained on sentences of the docstrings of numpy,
scipy, sympy, torch and transformers, which takes about half an hour on two cores; a folder that
holds the network already is used as it is. Its blocks are then pruned to a share of their weights,
and perplexity is measured on text that neither training nor calibration has seen. Prints Markdown.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import rmtcli
from benchmarks.minilm import sentences
from benchmarks.networks import print_row
from rmtcli.planning import Budget
from rmtcli.report.base import Report

PACKAGES = ("numpy", "scipy", "sympy", "torch", "transformers")
#: Sentences of one line of text, and lines that stay together where the text is divided.
LINE, STRETCH = 4, 10
#: Shares of the text that are kept for testing and for calibration.
TEST, CALIBRATION = 0.05, 0.05

END, VOCABULARY, LENGTH, BATCH = "<|end|>", 4_096, 128, 16
EPOCHS, RATE, WARM_UP = 4, 2e-3, 100
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}


def write_text(folder: Path) -> tuple[Path, Path, Path]:
    """Write files of text for training, calibration and testing, without common sentences."""
    every = list(dict.fromkeys(s for package in PACKAGES for s in sentences(package)))
    lines = [" ".join(every[i : i + LINE]) for i in range(0, len(every), LINE)]
    stretches = [lines[i : i + STRETCH] for i in range(0, len(lines), STRETCH)]
    random.Random(0).shuffle(stretches)
    test, calibration = (round(share * len(stretches)) for share in (TEST, CALIBRATION))
    parts = {
        "training.txt": stretches[test + calibration :],
        "calibration.txt": stretches[test : test + calibration],
        "test.txt": stretches[:test],
    }
    for name, part in parts.items():
        text = "\n".join(line for stretch in part for line in stretch) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    first, second, third = (folder / name for name in parts)
    return first, second, third


def train(text: Path, directory: Path) -> None:
    """Train the network and its tokenizer on a file of text, and write them into a directory."""
    lines = text.read_text(encoding="utf-8").splitlines()
    learned = ByteLevelBPETokenizer()
    learned.train_from_iterator(lines, VOCABULARY, special_tokens=[END], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=learned._tokenizer, eos_token=END, bos_token=END, pad_token=END
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=4 * LENGTH,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **SIZES,
    )
    network = LlamaForCausalLM(config)
    ids = [token for each in tokenizer(lines)["input_ids"] for token in (*each, 0)]
    rows = torch.tensor(ids[: len(ids) // LENGTH * LENGTH]).reshape(-1, LENGTH)
    steps = EPOCHS * (len(rows) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, (0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    for step, batch in enumerate(batches(rows)):
        loss = network(batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"<!-- step {step} of {steps}: loss {loss.item():.3f} -->", flush=True)
    network.eval().save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def rate(step: int, steps: int) -> float:
    """The learning rate's factor: a warm-up, then half a cosine down to a twentieth."""
    warm = min((step + 1) / WARM_UP, 1.0)
    return warm * (0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2)


def batches(rows: torch.Tensor) -> Iterator[torch.Tensor]:
    """Batches of rows, in another order in each epoch."""
    for _ in range(EPOCHS):
        order = torch.randperm(len(rows))
        for start in range(0, len(rows) - BATCH + 1, BATCH):
            yield rows[order[start : start + BATCH]]


class Bench:
    """The network, its text, and its calibration statistics, which are collected once.

    Args:
        folder: the directory for text, network and statistics.
        embeddings: whether all layers and the table of tokens are pruned, not the blocks alone.
    """

    def __init__(self, folder: Path, *, embeddings: bool = False) -> None:
        training, self.calibration, test = write_text(folder)
        self.source, self.folder = folder / "dense", folder
        if not self.source.exists():
            train(training, self.source)
        blocks = rmtcli.Selection(include=["model.layers.*"])
        self.selection = rmtcli.Selection(embeddings=True) if embeddings else blocks
        self.evaluation = rmtcli.Evaluation(test)
        dense = rmtcli.analyze(self.source, selection=self.selection)
        self.parameters = dense.source.parameters
        self.weights = sum(plan.layer.size for plan in dense.layers)

    def settings(self, *, data: bool) -> rmtcli.Calibration:
        """Options of calibration: with the text, or from the weights alone."""
        if not data:
            return rmtcli.Calibration("none")
        return rmtcli.Calibration(self.calibration, stats=self.folder / "moments.safetensors")

    def pruned(self, share: float, layout: str, *, data: bool = True) -> Report:
        """Prune the blocks to a share of their weights."""
        budget = Budget(str(round(self.parameters - (1 - share / 100) * self.weights)))
        return self.prune(layout=layout, budget=budget, calibration=self.settings(data=data))

    def rounded(self, bits: int, *, data: bool = True) -> Report:
        """Store every matrix in few bits, embeddings too."""
        settings = self.settings(data=data)
        return self.prune(bits=bits, keep="fraction:of=1", calibration=settings)

    def prune(self, **options: Any) -> Report:
        """Prune, or store in few bits, without writing anything."""
        given = {"selection": self.selection, "evaluation": self.evaluation, "dry_run": True}
        return rmtcli.prune(self.source, self.folder / "out", **given, **options)


def main() -> None:
    """Train the network where that was not done, compress it and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--share", type=float, nargs="+", default=[70, 50, 35])
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 6, 4, 3])
    parser.add_argument("--folder", type=Path, help="directory for text, network and statistics")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(arguments.folder or Path(name))
        print_row("method", "parameters", "bytes", "perplexity", "dense")
        print_row(*["---"] * 5)
        for share in arguments.share:
            at = f"blocks at {share:g} %"
            print_report(f"{at}, factored, no data", bench.pruned(share, "factored", data=False))
            for layout in ("factored", "pivoted", "narrow", "auto"):
                print_report(f"{at}, {layout}", bench.pruned(share, layout))
        for bits in arguments.bits:
            for data in (False, True):
                how = "error feedback" if data else "to nearest"
                print_report(f"{bits} bits, {how}", bench.rounded(bits, data=data))


def print_report(title: str, report: Report) -> None:
    """Print one row: the method, what is left of the network, and its perplexity."""
    assert report.comparison is not None
    before, after = report.comparison.before, report.comparison.after
    assert before is not None
    assert before.perplexity is not None
    assert after.perplexity is not None
    shares = (f"{100 * b / a:.1f} %" for a, b in (report.parameters, report.tensor_bytes))
    print_row(title, *shares, f"{after.perplexity:.2f}", f"{before.perplexity:.2f}")


if __name__ == "__main__":
    main()
