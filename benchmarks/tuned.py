"""Tuned networks and their adapters: the second part of ``benchmarks.adapters``."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

import rmtcli
from benchmarks.language import train, write_text
from benchmarks.minilm import minilm, sentences
from benchmarks.networks import print_row
from rmtcli.planning import Budget
from rmtcli.report.base import Report

#: Paragraphs that stay together where Python's documentation is divided, and the share for testing.
STRETCH, TEST = 20, 0.1
#: Tokens of a row, rows of a batch, passes over the text, learning rate, and steps of warm-up.
LENGTH, BATCH, EPOCHS, RATE, WARM_UP = 128, 16, 3, 3e-4, 20
#: Source of MiniLM's pairs of sentences, pairs for testing, and pairs that compete.
PACKAGE, PAIRS, RIVALS = "sklearn", 128, 64
#: Steps of MiniLM's training, pairs of a step, learning rate, and factor of the cosines.
STEPS, PAIRED, GENTLE, SHARP = 40, 16, 5e-5, 20.0


def fit(network: Any, steps: int, rate: float, losses: Iterable[torch.Tensor]) -> None:
    """Train every weight with AdamW: a warm-up, then a rate that falls to 0."""
    optimizer = torch.optim.AdamW(network.parameters(), rate, (0.9, 0.95), weight_decay=0.0)
    for done, loss in enumerate(losses):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (done + 1) / WARM_UP) * (1 - done / steps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    network.eval()


class Language:
    """The benchmarks' language model, trained on for some passes over Python's manual.

    Args:
        folder: the directory of ``benchmarks.language``; the text is written there.
    """

    #: The table of tokens, which is the output head too, is held whole by every adapter.
    whole = ("model.embed_tokens",)
    kind = AutoModelForCausalLM

    def __init__(self, folder: Path) -> None:
        self.base = folder / "dense"
        if not self.base.exists():
            train(write_text(folder)[0], self.base)
        tokenizer = AutoTokenizer.from_pretrained(self.base)
        self.training, self.test = (rows(tokenizer, text) for text in write_manual(folder))

    def tune(self, network: Any) -> None:
        """Train every weight on the text."""
        per_pass = len(self.training) // BATCH
        batches = (
            some
            for _ in range(EPOCHS)
            for some in torch.randperm(len(self.training)).split(BATCH)[:per_pass]
        )
        losses = (network(self.training[x], labels=self.training[x]).loss for x in batches)
        fit(network, EPOCHS * per_pass, RATE, losses)

    @torch.no_grad()
    def loss(self, network: Any) -> float:
        """Mean negative log-likelihood of the next token."""
        losses = [float(network(x, labels=x).loss) * len(x) for x in self.test.split(BATCH)]
        return sum(losses) / len(self.test)


class MiniLM:
    """MiniLM, trained to tell which sentence follows another in scikit-learn's docstrings."""

    whole = tuple(f"embeddings.{name}_embeddings" for name in ("word", "position", "token_type"))
    kind = AutoModel

    def __init__(self) -> None:
        self.base = minilm()
        self.tokenizer = AutoTokenizer.from_pretrained(self.base)
        every = list(dict.fromkeys(sentences(PACKAGE)))
        pairs = list(zip(every[::2], every[1::2], strict=False))
        random.Random(0).shuffle(pairs)
        self.test, self.training = pairs[:PAIRS], pairs[PAIRS:]

    def tune(self, network: Any) -> None:
        """Train every weight on pairs, each against the others of its batch."""
        picks = torch.randperm(len(self.training))[: STEPS * PAIRED].split(PAIRED)
        batches = ([self.training[i] for i in some.tolist()] for some in picks)
        fit(network, STEPS, GENTLE, (self._loss(network, batch) for batch in batches))

    @torch.no_grad()
    def loss(self, network: Any) -> float:
        """Mean negative log-likelihood of the sentence that follows, among ``RIVALS``."""
        parts = [self.test[i : i + RIVALS] for i in range(0, len(self.test), RIVALS)]
        return float(np.mean([float(self._loss(network, part)) for part in parts]))

    def _loss(self, network: Any, pairs: list[tuple[str, str]]) -> torch.Tensor:
        first, second = (self._embed(network, list(side)) for side in zip(*pairs, strict=True))
        return torch.nn.functional.cross_entropy(SHARP * first @ second.T, torch.arange(len(pairs)))

    def _embed(self, network: Any, texts: list[str]) -> torch.Tensor:
        given = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        mask = given["attention_mask"][..., None]
        means = (network(**given).last_hidden_state * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(means, dim=1)


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


@dataclass(frozen=True, slots=True)
class Row:
    """One adapter of one network: its size, the share of the change in it, and its loss."""

    parameters: int
    ranks: tuple[int, int]
    kept: float
    loss: float
    lost: float


class Tuned:
    """A network before and after training, and what its adapters lose of the gain.

    Args:
        task: the network and its task.
        folder: where the tuned network is, or is written.
        seed: seed of the training.
    """

    def __init__(self, task: Language | MiniLM, folder: Path, seed: int) -> None:
        self.task, self.adapter = task, folder / "adapter"
        self.tuned = folder / f"{type(task).__name__.lower()}-{seed}"
        if not self.tuned.exists():
            network = task.kind.from_pretrained(task.base)
            torch.manual_seed(seed)
            task.tune(network.train())
            network.save_pretrained(self.tuned)
        self.losses = [
            task.loss(task.kind.from_pretrained(x).eval()) for x in (task.base, self.tuned)
        ]

    def extract(self, **options: Any) -> Report:
        """Write an adapter of these options; without the edge where none is needed."""
        keep = options.get("keep", "auto")
        edge = "change" if keep == "auto" and "budget" not in options else "median"
        given = {"edge": edge, "whole": self.task.whole, "force": True, **options}
        return rmtcli.extract(self.task.base, self.tuned, self.adapter, **given)

    def row(self, **options: Any) -> Row:
        """What an adapter of these options loses of the gain."""
        report = self.extract(**options)
        assert report.extracted is not None
        ranks = [plan.rank or 0 for plan in report.layers]
        self.widths = sum(sum(plan.layer.shape) for plan in report.layers)
        loss, (before, after) = self.opened(), self.losses
        lost = (loss - after) / (before - after)
        parameters = report.pruned_parameters[1]
        return Row(parameters, (min(ranks), max(ranks)), report.extracted.kept, loss, lost)

    def opened(self) -> float:
        """The loss with the adapter that was written, in peft."""
        network = self.task.kind.from_pretrained(self.task.base)
        return self.task.loss(PeftModel.from_pretrained(network, self.adapter).eval())

    def every(self) -> Iterable[tuple[str, Row]]:
        """One row per way to choose ranks, at several sizes."""
        edge = self.row()
        yield "edge", edge
        energy = self.row(keep="energy:fraction=0.9")
        yield "energy 0.9", energy
        for name, size in (
            ("size of the edge", edge.parameters),
            ("size of energy 0.9", energy.parameters),
            ("rank 16", 16 * self.widths),
            ("rank 4", 4 * self.widths),
        ):
            yield f"uniform, {name}", self.row(keep=f"rank:k={size // self.widths}")
            yield f"budget, {name}", self.row(budget=Budget(str(size)))


def compare(task: Language | MiniLM, folder: Path, seeds: int) -> None:
    """Print a table of means over seeds, with the smallest and the largest loss of gain."""
    table: dict[str, list[Row]] = defaultdict(list)
    for seed in range(seeds):
        tuned = Tuned(task, folder, seed)
        before, after = tuned.losses
        print(f"<!-- seed {seed}: loss {before:.4f} → {after:.4f} -->", flush=True)
        for title, row in tuned.every():
            print(f"<!-- {title}: {row} -->", flush=True)
            table[title].append(row)
    print_row("ranks", "parameters of the factors", "from–to", "kept", "loss", "gain lost")
    print_row(*["---"] * 6)
    for title, some in table.items():
        size, kept, loss, lost = (
            float(np.mean([getattr(row, name) for row in some]))
            for name in ("parameters", "kept", "loss", "lost")
        )
        ranks = f"{min(row.ranks[0] for row in some)}–{max(row.ranks[1] for row in some)}"
        least, most = (100 * pick(row.lost for row in some) for pick in (min, max))
        spread = f" ({least:.1f}–{most:.1f})" if seeds > 1 else ""
        cells = f"{size:,.0f}", ranks, f"{100 * kept:.1f} %", f"{loss:.3f}"
        print_row(title, *cells, f"{100 * lost:.1f} %{spread}")
