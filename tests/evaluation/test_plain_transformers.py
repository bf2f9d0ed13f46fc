"""Each task measures what a few lines of plain transformers measure, for families that differ.

The networks have random weights. The references feed one sample at a time, without padding, with
what the tokenizer gives and nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import PreTrainedModel

from rmtcli import Evaluation, evaluate
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import EvaluationError
from rmtcli.evaluation.made import made_for
from rmtcli.evaluation.network import build
from rmtcli.evaluation.text import TOKENS
from tests.evaluation.test_tasks import lines
from tests.integrations.factored import CASES, T5, WORDS, tokenizer

_SIZES = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}
#: Configurations of families that add embeddings of segments to those of tokens, and one other.
LANGUAGE: dict[str, dict[str, Any]] = {
    "GPT2": _SIZES,
    "GPTJ": _SIZES | {"rotary_dim": 4},
    "GPTNeo": {
        "vocab_size": 99,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "max_position_embeddings": 40,
    },
    "CodeGen": _SIZES | {"n_ctx": 40, "rotary_dim": 4},
    "CTRL": _SIZES | {"dff": 48},
    "OpenAIGPT": _SIZES,
    "GPTBigCode": _SIZES,
    "Llama": {
        "vocab_size": 99,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
}


def saved(model: PreTrainedModel, folder: Path, *, segments: bool) -> Path:
    """A directory of a model with larger weights than a fresh one's, and of a tokenizer."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    model.eval().save_pretrained(folder)
    tokenizer(40).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    given = ["input_ids", "attention_mask", *(["token_type_ids"] if segments else [])]
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | {"model_input_names": given})
    )
    return folder


@pytest.mark.parametrize("family", LANGUAGE)
def test_perplexity_is_that_of_plain_transformers(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**LANGUAGE[family])
    source = saved(
        transformers.AutoModelForCausalLM.from_config(config), tmp_path / "m", segments=False
    )
    (tmp_path / "text.txt").write_text("\n".join(lines()))
    evaluation = Evaluation(tmp_path / "text.txt", task="causal-lm:length=16")
    comparison = evaluate(source, evaluation=evaluation).comparison

    model = transformers.AutoModelForCausalLM.from_pretrained(source)
    tokens = tokenizer(40)((tmp_path / "text.txt").read_text())["input_ids"]
    blocks = torch.tensor(tokens[: len(tokens) // 16 * 16]).reshape(-1, 16)
    with torch.no_grad():
        loss = model(input_ids=blocks, labels=blocks).loss
    assert comparison is not None
    # float32 means, added in another order.
    assert comparison.after.perplexity == pytest.approx(float(loss.exp()), rel=1e-4)


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_perplexity_of_lines_is_that_of_one_line_at_a_time(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**LANGUAGE[family])
    source = saved(
        transformers.AutoModelForCausalLM.from_config(config), tmp_path / "m", segments=True
    )
    texts = [*lines(), WORDS[0]]  # the last one has no next token
    (tmp_path / "text.txt").write_text("\n".join(texts))
    evaluation = Evaluation(tmp_path / "text.txt", task="causal-lm:lines=1,length=12")
    comparison = evaluate(source, evaluation=evaluation, against=source).comparison

    model = transformers.AutoModelForCausalLM.from_pretrained(source)
    total, count, right = 0.0, 0, 0
    for text in texts[:-1]:
        tokens = torch.tensor([tokenizer(40)(text)["input_ids"][:12]])
        with torch.no_grad():
            logits, following = model(input_ids=tokens).logits[0, :-1], tokens[0, 1:]
        total += float(torch.nn.functional.cross_entropy(logits, following, reduction="sum"))
        right += int((logits.argmax(1) == following).sum())
        count += len(following)
    assert comparison is not None
    assert comparison.after.perplexity == pytest.approx(np.exp(total / count), rel=1e-4)
    assert comparison.after.accuracy == pytest.approx(100 * right / count)
    assert comparison.after.predictions is not None
    assert len(comparison.after.predictions) == count
    assert comparison.agreement == 100


def classifier(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if family == "BERT":
        return CASES["bert-head"].model()
    if family == "RoBERTa":
        config: Any = transformers.RobertaConfig(
            vocab_size=99,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=44,
            pad_token_id=3,
        )
        return transformers.RobertaForSequenceClassification(config)
    if family == "XLNet":
        config = transformers.XLNetConfig(
            vocab_size=99, d_model=32, n_layer=2, n_head=4, d_inner=48, pad_token_id=0
        )
        return transformers.XLNetForSequenceClassification(config)
    if family == "T5":  # reads the last token of the first word, which ends each text
        special = {"eos_token_id": 2, "decoder_start_token_id": 0}
        config = transformers.T5Config(**T5, **special, num_labels=2)
        return transformers.T5ForSequenceClassification(config)
    padding = {"GPT-2": 95, "GPT-2 without padding": None}[family]
    config = transformers.GPT2Config(**_SIZES, pad_token_id=padding)
    return transformers.GPT2ForSequenceClassification(config)


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize(
    "family", ["BERT", "RoBERTa", "GPT-2", "GPT-2 without padding", "XLNet", "T5"]
)
def test_class_scores_are_those_of_plain_transformers(
    family: str, segments: bool, tmp_path: Path
) -> None:
    source = saved(classifier(family), tmp_path / "m", segments=segments)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source)
    # The first word is the token after those of the tokenizer for padding and unknown words.
    first = WORDS[0]
    parts = ([word for word in line.split() if word != first] for line in lines())
    texts = [" ".join([*words, first]) for words in sorted(parts, key=len)]
    words = transformers.AutoTokenizer.from_pretrained(source)
    with torch.no_grad():
        expected = torch.cat([model(**words(t, return_tensors="pt")).logits for t in texts])
    # Every third label is wrong.
    labels = [int(row.argmax()) ^ (i % 3 == 0) for i, row in enumerate(expected)]
    records = [{"text": t, "label": label} for t, label in zip(texts, labels, strict=True)]
    (tmp_path / "text.jsonl").write_text("\n".join(map(json.dumps, records)))
    evaluation = Evaluation(tmp_path / "text.jsonl", task="text-classification")
    comparison = evaluate(source, evaluation=evaluation).comparison
    assert comparison is not None
    assert comparison.after.outputs is not None
    np.testing.assert_allclose(comparison.after.outputs, expected, atol=1e-5, rtol=1e-4)
    assert comparison.after.accuracy == pytest.approx(100 * (1 - 14 / 40))


def test_a_network_with_a_decoder_of_its_own_has_no_perplexity(tmp_path: Path) -> None:
    source = saved(classifier("T5"), tmp_path / "m", segments=False)
    (tmp_path / "text.txt").write_text("\n".join(lines()))
    evaluation = Evaluation(tmp_path / "text.txt", task="causal-lm:length=16")
    with pytest.raises(EvaluationError, match="cannot load it: no AutoModelForCausalLM"):
        evaluate(source, evaluation=evaluation)


def test_random_texts_of_a_language_model_have_no_segments(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(**_SIZES)
    source = saved(transformers.GPT2LMHeadModel(config), tmp_path / "m", segments=True)
    harness = Evaluation(task="causal-lm").resolve(open_checkpoint(source))
    samples, _ = made_for(harness)
    assert samples.inputs.shape[1] == 2
    model = transformers.AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        inputs = torch.from_numpy(samples.inputs[-2:])
        expected = model(input_ids=inputs[:, TOKENS]).logits[:, :-1].flatten(0, 1)
        torch.testing.assert_close(build(harness)(inputs), expected, atol=1e-5, rtol=1e-4)
    bert = saved(CASES["bert"].model(), tmp_path / "b", segments=True)
    assert (
        made_for(Evaluation(task="sentence-embedding").resolve(open_checkpoint(bert)))[
            0
        ].inputs.shape[1]
        == 3
    )


@pytest.mark.parametrize("segments", [False, True])
def test_embeddings_are_those_of_plain_transformers(segments: bool, tmp_path: Path) -> None:
    source = saved(CASES["bert"].model(), tmp_path / "m", segments=segments)
    (tmp_path / "text.txt").write_text("\n".join(lines()))
    harness = Evaluation(tmp_path / "text.txt", task="sentence-embedding").resolve(
        open_checkpoint(source)
    )
    assert harness.samples is not None
    assert harness.samples.inputs.shape[1] == (3 if segments else 2)
    model = transformers.AutoModel.from_pretrained(source)
    words = transformers.AutoTokenizer.from_pretrained(source)
    texts = sorted(lines(), key=lambda text: len(text.split()))
    with torch.no_grad():
        states = [model(**words(t, return_tensors="pt")).last_hidden_state for t in texts]
        outputs = build(harness)(torch.from_numpy(harness.samples.inputs))
    expected = torch.nn.functional.normalize(torch.cat([state.mean(1) for state in states]))
    torch.testing.assert_close(outputs, expected, atol=1e-5, rtol=1e-4)
