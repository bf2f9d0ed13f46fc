"""What a trained adapter loses when it is resized: the table of docs/adapters.md.

    pip install transformers peft sympy pandas matplotlib
    python -m benchmarks.resize [--folder DIR] [--minutes 2] [--rank 64] [--seed 0]

A LoRA adapter of all linear layers of the causal language model of ``benchmarks.language`` is
trained on docstrings of pandas and matplotlib, for some minutes of processor time on one thread.
Each rule then resizes it, and the loss is measured on 400 sentences that were held out. Prints
Markdown.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer, LlamaForCausalLM

import rmtcli
from benchmarks.language import LENGTH, train, write_text
from benchmarks.minilm import sentences
from benchmarks.networks import print_row

PACKAGES, TEST = ("pandas", "matplotlib"), 400
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BATCH, RATE = 8, 5e-4
RULES = ("edge", "hard-threshold", *(f"energy:fraction={share}" for share in (0.99, 0.95, 0.9)))
#: Shares of the adapter's parameters, as one rank for all layers and as a budget.
SHARES = (50, 25, 12.5, 6.25)


class Bench:
    """The base, its tokenizer and the text.

    Args:
        folder: the directory of ``benchmarks.language``.
    """

    def __init__(self, folder: Path) -> None:
        self.base = folder / "dense"
        if not self.base.exists():
            train(write_text(folder)[0], self.base)
        self.tokenizer = AutoTokenizer.from_pretrained(self.base)
        lines = [line for name in PACKAGES for line in dict.fromkeys(sentences(name))]
        random.Random(0).shuffle(lines)
        self.test, self.training = lines[:TEST], lines[TEST:]

    def rows(self, lines: list[str], batch: int) -> tuple[torch.Tensor, ...]:
        """Batches of rows of tokens; the rest that fills no row is left out."""
        ids = torch.tensor(self.tokenizer.encode(self.tokenizer.eos_token.join(lines)))
        return ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH).split(batch)

    def network(self, adapter: Path | None = None) -> Any:
        """The base, with an adapter if there is one."""
        model = LlamaForCausalLM.from_pretrained(self.base)
        return model if adapter is None else PeftModel.from_pretrained(model, adapter)

    def loss(self, model: Any) -> float:
        """Mean negative log-likelihood of the held-out tokens."""
        total = count = 0.0
        model.eval()
        with torch.no_grad():
            for batch in self.rows(self.test, 16):
                total += len(batch) * float(model(input_ids=batch, labels=batch).loss)
                count += len(batch)
        return total / count

    def adapt(self, target: Path, rank: int, minutes: float, seed: int) -> int:
        """Train an adapter for some minutes of processor time; returns the number of steps."""
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS, task_type="CAUSAL_LM")
        model = get_peft_model(self.network(), config).train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], RATE)
        start, steps = time.process_time(), 0
        while True:
            random.Random(steps).shuffle(self.training)
            for batch in self.rows(self.training, BATCH):
                if time.process_time() - start > 60 * minutes:
                    model.save_pretrained(target)
                    return steps
                model(input_ids=batch, labels=batch).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                steps += 1


def main() -> None:
    """Train the adapter, resize it in every way and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="directory of benchmarks.language")
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(arguments.folder or Path(name))
        whole, small = Path(name) / "adapter", Path(name) / "small"
        steps = bench.adapt(whole, arguments.rank, arguments.minutes, arguments.seed)
        losses = bench.loss(bench.network()), bench.loss(bench.network(whole))
        before, after = map(math.exp, losses)
        print(f"<!-- {steps} steps; perplexity {before:.2f} → {after:.2f} -->", flush=True)
        print_row("rule", "parameters left", "norm kept", "gain lost")
        print_row(*["---"] * 4)
        runs: list[dict[str, str]] = [{"keep": rule} for rule in RULES]
        for share in SHARES:
            rank = round(share * arguments.rank / 100)
            runs += [{"keep": f"rank:k={rank}"}, {"budget": f"{share:g}%"}]
        for options in runs:
            result = rmtcli.resize(whole, small, force=True, **options)  # type: ignore[arg-type]
            lost = (bench.loss(bench.network(small)) - losses[1]) / (losses[0] - losses[1])
            share = result.parameters[1] / result.parameters[0]
            ((option, value),) = options.items()
            print_row(f"`--{option} {value}`", f"{share:.1%}", f"{result.kept:.2%}", f"{lost:.1%}")


if __name__ == "__main__":
    main()
