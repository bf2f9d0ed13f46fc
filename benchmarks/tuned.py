"""A tuned language model and its adapters: the second part of ``benchmarks.adapters``."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import rmtcli
from benchmarks.language import train, write_text
from benchmarks.networks import print_row
from rmtcli.planning import Budget
from rmtcli.report.base import Report

#: Paragraphs that stay together where Python's documentation is divided, and the share for testing.
STRETCH, TEST = 20, 0.1
#: Tokens of a row, rows of a batch, passes over the text, learning rate, and steps of warm-up.
LENGTH, BATCH, EPOCHS, RATE, WARM_UP = 128, 16, 3, 3e-4, 20
#: The table of tokens, which is the output head too, is held whole by every adapter.
WHOLE = ("model.embed_tokens",)


def write_manual(folder: Path) -> tuple[Path, Path]:
    """Write paragraphs of the language reference that Python's ``help`` shows, in two files."""
    paragraphs = (
        " ".join(part.split()) for text in topics.values() for part in re.split(r"\n\s*\n", text)
    )
    every = list(dict.fromkeys(part for part in paragraphs if len(part) >= 30))
    stretches = [every[i : i + STRETCH] for i in range(0, len(every), STRETCH)]
    random.Random(0).shuffle(stretches)
    count = int(TEST * len(stretches))
    paths = []
    for name, some in (("manual", stretches[count:]), ("manual-test", stretches[:count])):
        paths.append(folder / f"{name}.txt")
        paths[-1].write_text("\n".join(x for part in some for x in part) + "\n", encoding="utf-8")
    return paths[0], paths[1]


def rows(tokenizer: Any, text: Path) -> torch.Tensor:
    """All tokens of a file in rows of one length, with the mark of an end after each line."""
    lines = text.read_text(encoding="utf-8").splitlines()
    ids = [token for each in tokenizer(lines)["input_ids"] for token in (*each, 0)]
    return torch.tensor(ids[: len(ids) // LENGTH * LENGTH]).reshape(-1, LENGTH)


@torch.no_grad()
def loss_of(network: Any, tokens: torch.Tensor) -> float:
    """Mean negative log-likelihood of the next token."""
    losses = [float(network(x, labels=x).loss) * len(x) for x in tokens.split(BATCH)]
    return sum(losses) / len(tokens)


def tune(source: Path, target: Path, text: Path) -> None:
    """Train every weight of a network on a text."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    network: Any = AutoModelForCausalLM.from_pretrained(source)
    tokens = rows(tokenizer, text)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, (0.9, 0.95), weight_decay=0.0)
    steps = EPOCHS * (len(tokens) // BATCH)
    done = 0
    network.train()
    for _ in range(EPOCHS):
        for some in torch.randperm(len(tokens)).split(BATCH):
            if len(some) < BATCH:
                continue
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1.0, (done + 1) / WARM_UP) * (1 - done / steps)
            network(tokens[some], labels=tokens[some]).loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            done += 1
    network.eval().save_pretrained(target)
    tokenizer.save_pretrained(target)


class Tuned:
    """The network before and after training, and what its adapters lose of the gain."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.base, self.tuned = folder, folder / "dense", folder / "tuned"
        if not self.base.exists():
            train(write_text(folder)[0], self.base)
        self.text, test = write_manual(folder)
        if not self.tuned.exists():
            tune(self.base, self.tuned, self.text)
        self.tokens = rows(AutoTokenizer.from_pretrained(self.base), test)
        self.losses = [loss_of(self.network(path), self.tokens) for path in (self.base, self.tuned)]

    def network(self, path: Path) -> Any:
        """A network, ready to be run."""
        return AutoModelForCausalLM.from_pretrained(path).eval()

    def extracted(self, **options: Any) -> Report:
        """An adapter of these options in ``adapter``; without the edge where none is needed."""
        keep = options.get("keep", "auto")
        edge = "change" if keep == "auto" and "budget" not in options else "median"
        target = self.folder / "adapter"
        given = {"edge": edge, "whole": WHOLE, "force": True, **options}
        return rmtcli.extract(self.base, self.tuned, target, **given)

    def row(self, title: str, **options: Any) -> Report:
        """Print what an adapter loses of the gain."""
        report = self.extracted(**options)
        opened = PeftModel.from_pretrained(self.network(self.base), self.folder / "adapter").eval()
        loss, (before, after) = loss_of(opened, self.tokens), self.losses
        ranks = [plan.rank for plan in report.layers]
        assert report.extracted is not None
        lost = 100 * (loss - after) / (before - after)
        kept = f"{100 * report.extracted.kept:.1f} %"
        perplexity = f"{torch.tensor(loss).exp():.2f}"
        size = f"{report.pruned_parameters[1]:,}"
        print_row(title, size, f"{min(ranks)}–{max(ranks)}", kept, perplexity, f"{lost:.1f} %")
        return report


def compare(folder: Path) -> None:
    """Print one row per way to choose ranks, at several sizes."""
    tuned = Tuned(folder)
    before, after = (float(torch.tensor(loss).exp()) for loss in tuned.losses)
    print(f"Perplexity {before:.2f} before training, {after:.2f} after.\n", flush=True)
    print_row("ranks", "parameters of the factors", "from–to", "kept", "perplexity", "gain lost")
    print_row(*["---"] * 6)
    reports = [tuned.row("edge"), tuned.row("energy 0.9", keep="energy:fraction=0.9")]
    widths = sum(sum(plan.layer.shape) for plan in reports[0].layers)
    sizes = [*(report.pruned_parameters[1] for report in reports), 16 * widths, 4 * widths]
    for size in sizes:
        tuned.row(f"at {size:,}: uniform", keep=f"rank:k={size // widths}")
        tuned.row(f"at {size:,}: budget", budget=Budget(str(size)))
    tuned.row("edge, at most 16", max_rank=16)
    stats = folder / "manual.safetensors"
    settings = rmtcli.Calibration(tuned.text, stats=stats, metric="one-sided")
    for size in sizes[2:]:
        budget = Budget(str(size))
        tuned.row(f"at {size:,}: budget, by output", budget=budget, calibration=settings)
    shutil.rmtree(folder / "adapter")
