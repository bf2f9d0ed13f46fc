"""What the trial without data says, beside what pruning costs: a table of docs/theory.md.

    python -m benchmarks.trials

Trains a text classifier and a language model on the pages of docs/, a convolutional network and an
MLP on the training images beside the sample models, and takes the two sample models: about three
minutes. Prunes the layers of each, all but the output head, to several shares of their energy.
Prints Markdown: how far the outputs move on inputs that need no file, and on held-out data what the
network was right for before and after.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

import rmtcli
from benchmarks.networks import print_row
from benchmarks.verdicts import DATA, ROOT, fit
from rmtcli.checkpoint import open_checkpoint
from rmtcli.evaluation.network import build
from rmtcli.experiments.networks import mlp
from rmtcli.running.trial import Trial

SHARES = (0.99, 0.97, 0.94, 0.9, 0.8, 0.6)
#: Most pages, and tokens of a vocabulary.
PAGES, WORDS = 4, 2000


def convolutional() -> nn.Module:
    """A small network for images of 28 × 28 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2304, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def images(folder: Path) -> Iterator[tuple[str, Path, rmtcli.Evaluation]]:
    """The sample models, and two networks trained on the images beside them."""
    for name in ("mnist_mlp.safetensors", "mnist_deep.pt"):
        yield name, ROOT / "sample_models" / name, rmtcli.Evaluation(DATA)
    arrays = np.load(DATA)
    x = torch.from_numpy(arrays["train_inputs"]).float() / 255
    y = torch.from_numpy(arrays["train_targets"]).long()
    torch.manual_seed(0)
    model = mlp([784, 512, 512, 10], 0)
    fit(model, x.flatten(1), y, "Adam", 1e-3, 10)
    save_file(model.state_dict(), folder / "mlp.safetensors")
    yield "MLP 784-512-512-10", folder / "mlp.safetensors", rmtcli.Evaluation(DATA)
    torch.manual_seed(0)
    network = convolutional()
    fit(network, x.reshape(-1, 1, 28, 28), y, "Adam", 1e-3, 10)
    save_file(network.state_dict(), folder / "conv.safetensors")
    data = folder / "images.npz"
    np.savez(data, inputs=arrays["inputs"].reshape(-1, 1, 28, 28), targets=arrays["targets"])
    named = rmtcli.Evaluation(data, model="benchmarks.trials:convolutional")
    yield "convolution 5×5, 2304-128-10", folder / "conv.safetensors", named


def texts(folder: Path) -> Iterator[tuple[str, Path, rmtcli.Evaluation]]:
    """A text classifier and a language model of two blocks, trained on pages of docs/."""
    import transformers

    pages = sorted((ROOT / "docs").glob("*.md"), key=lambda page: -page.stat().st_size)[:PAGES]
    lines = [(text, i) for i, page in enumerate(pages) for text in _sentences(page.read_text())]
    order = np.random.default_rng(0).permutation(len(lines))
    lines = [lines[i] for i in order]
    tokenizer = _tokenizer([text for text, _ in lines])
    held, cut = len(lines) // 5, 24
    shared = {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 4}
    bert = transformers.BertConfig(
        vocab_size=len(tokenizer), intermediate_size=512, num_labels=PAGES, pad_token_id=0, **shared
    )
    gpt = transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=128, n_layer=2, n_head=4)
    encoded: Any = tokenizer(
        [text for text, _ in lines], truncation=True, padding="max_length", max_length=cut
    )
    tokens, mask = (torch.tensor(encoded[key]) for key in ("input_ids", "attention_mask"))
    labels = torch.tensor([label for _, label in lines])
    for kind, targets in (("classifier", labels), ("language model", tokens)):
        torch.manual_seed(0)
        model: Any = (
            transformers.BertForSequenceClassification(bert)
            if kind == "classifier"
            else transformers.GPT2LMHeadModel(gpt)
        )
        _train(model, tokens[held:], mask[held:], targets[held:], language=targets is tokens)
        path = folder / kind.replace(" ", "-")
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        data = folder / f"{path.name}.jsonl"
        records = [{"text": text, "label": label} for text, label in lines[:held]]
        data.write_text("\n".join(map(json.dumps, records)))
        task = None if kind == "classifier" else f"causal-lm:length={cut},lines=1"
        yield f"{kind}, 2 blocks of 128", path, rmtcli.Evaluation(data, task=task)


def _sentences(text: str) -> list[str]:
    words = [re.findall(r"[a-z]+", line.lower()) for line in text.splitlines()]
    return [" ".join(line) for line in words if len(line) > 5]


def _tokenizer(lines: list[str]) -> Any:
    import tokenizers
    import transformers

    counts = Counter(word for line in lines for word in line.split())
    names = ["[PAD]", "[UNK]", *(word for word, _ in counts.most_common(WORDS))]
    model = tokenizers.models.WordLevel({name: i for i, name in enumerate(names)}, "[UNK]")
    words = tokenizers.Tokenizer(model)
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]"
    )


def _train(model: Any, tokens: Any, mask: Any, targets: Any, *, language: bool) -> None:
    """Train on batches of 32 for 12 passes."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(12):
        for rows in torch.randperm(len(tokens)).split(32):
            wanted = targets[rows]
            if language:
                wanted = wanted.masked_fill(mask[rows] == 0, -100)
            optimizer.zero_grad()
            model(input_ids=tokens[rows], attention_mask=mask[rows], labels=wanted).loss.backward()
            optimizer.step()
    model.eval()


def main() -> None:
    """Train the networks and print the table."""
    print_row("network", "energy kept", "moved", "right before", "after", "points lost")
    print_row(*["---"] * 6)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for words, path, evaluation in chain(images(folder), texts(folder)):
            trial = Trial(
                rmtcli.Evaluation(model=evaluation.model, task=evaluation.task).resolve(
                    open_checkpoint(path)
                )
            )
            for share in SHARES:
                small = folder / f"small{path.suffix}"
                keep = f"energy:fraction={share}"
                report = rmtcli.prune(path, small, keep=keep, evaluation=evaluation, force=True)
                if report.output is None or report.comparison is None:
                    continue
                scores = report.comparison
                assert scores.before is not None
                moved = trial.move(build(trial.harness, open_checkpoint(small)))
                right = (f"{s.accuracy:.2f}" for s in (scores.before, scores.after))
                print_row(words, f"{share:.0%}", f"{moved:.3f}", *right, f"{scores.drop:.2f}")


if __name__ == "__main__":
    main()
