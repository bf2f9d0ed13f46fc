"""Dropping the tokens that a text does not use, with tiny tokenizers of every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

transformers = pytest.importorskip("transformers")

import rmtcli  # noqa: E402
from rmtcli.checkpoint import open_checkpoint  # noqa: E402
from rmtcli.checkpoint.huggingface.vocabulary import REMOVED, make_cut  # noqa: E402
from rmtcli.checkpoint.huggingface.vocabulary import cut as cutting  # noqa: E402
from rmtcli.errors import EvaluationError, UsageError  # noqa: E402
from rmtcli.planning import Budget  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

#: What tokenizers learn from, and the part of it that is used.
LEARNT = [
    "the lower rivers flow slowest where the widest valleys lie",
    "newer boats are faster than older boats on lower rivers",
    "a café near the harbour sells the freshest fish in town",
    "unhappily the tallest towers were never finished by builders",
] * 3
USED = ["the lower boats are newer", "a river flows lower than the towers", "café fish"]


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=180, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(LEARNT, trainer)
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def byte_pairs() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LEARNT, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<late>"])  # beyond the model's own tokens
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Pairs of characters, as Llama's first tokenizers have them, and bytes for all others."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(
        [line.replace("é", "e") for line in LEARNT],
        trainers.BpeTrainer(vocab_size=140, show_progress=False),
    )
    model = json.loads(learner.to_str())["model"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *model["vocab"]]
    vocab = {token: number for number, token in enumerate(names)}
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(Regex(" "), "▁")]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=90,
        special_tokens=["<pad>", "<unk>", "</s>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(LEARNT, trainer)
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


TOKENIZERS = {
    "bert": (word_piece, {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}),
    "gpt2": (byte_pairs, {"pad_token": "<pad>", "eos_token": "<end>"}),
    "llama": (byte_fallback, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
    "t5": (unigram, {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}),
}
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 60,
}
#: Class and configuration by kind; Llama's head is not tied to its table.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForMaskedLM", SIZES),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 32, "n_layer": 1, "n_head": 4}),
    "llama": ("LlamaForCausalLM", SIZES | {"tie_word_embeddings": False}),
    "t5": (
        "T5ForConditionalGeneration",
        {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4},
    ),
}


def made(kind: str, folder: Path, **options: Any) -> Path:
    """A directory with a tokenizer and a network, whose table has unused rows at its end."""
    make, special = TOKENIZERS[kind]
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=make(), **special)
    name, sizes = NETWORKS[kind]
    ids = {
        f"{key}_id": tokenizer.convert_tokens_to_ids(token)
        for key, token in special.items()
        if key in ("pad_token", "bos_token", "eos_token")
    }
    rows = len(tokenizer) + 3
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{"vocab_size": rows} | sizes | ids | options)
    getattr(transformers, name)(config).eval().save_pretrained(folder / kind)
    tokenizer.save_pretrained(folder / kind)
    (folder / "text.txt").write_text("\n".join(USED), encoding="utf-8")
    return folder / kind


def outputs(directory: Path, tokenizer: Any, name: str) -> tuple[list[str], torch.Tensor]:
    """The tokens of a text, and the scores of all tokens."""
    model, info = getattr(transformers, name).from_pretrained(directory, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    batch = tokenizer(USED[0], return_tensors="pt", return_token_type_ids=False)
    more = {"decoder_input_ids": batch["input_ids"]} if "T5" in name else {}
    with torch.no_grad():
        scores = model.eval()(**batch, **more).logits
    return tokenizer.convert_ids_to_tokens(batch["input_ids"][0]), scores


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_plain_transformers_opens_the_result_and_nothing_has_changed(
    kind: str, tmp_path: Path
) -> None:
    source, name = made(kind, tmp_path), NETWORKS[kind][0]
    report = rmtcli.prune(source, tmp_path / "small", vocab=tmp_path / "text.txt")
    old, new = (transformers.AutoTokenizer.from_pretrained(x) for x in (source, tmp_path / "small"))
    assert report.vocabulary is not None
    before, after = report.vocabulary
    assert report.output is not None
    assert len(new) == after < len(old) < before
    tokens, dense = outputs(source, old, name)
    same, small = outputs(tmp_path / "small", new, name)
    assert tokens == same
    kept = old.convert_tokens_to_ids(new.convert_ids_to_tokens(range(after)))
    torch.testing.assert_close(small, dense[..., kept], rtol=1e-5, atol=1e-5)
    assert report.output.parameters == report.parameters[1] < report.source.parameters
    # Special tokens keep their parts, under new numbers.
    assert new.special_tokens_map == old.special_tokens_map
    config = transformers.AutoConfig.from_pretrained(tmp_path / "small")
    for key in ("pad_token", "eos_token", "bos_token"):
        if getattr(new, key) is not None and getattr(config, f"{key}_id") is not None:
            assert getattr(config, f"{key}_id") == new.convert_tokens_to_ids(getattr(new, key))
    record = json.loads((tmp_path / "small" / REMOVED).read_text(encoding="utf-8"))
    assert len(record["removed"]) + after == len(old)
    assert not record["removed"].keys() & new.get_vocab().keys()


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_other_text_is_still_spelled(kind: str, tmp_path: Path) -> None:
    source = made(kind, tmp_path)
    rmtcli.prune(source, tmp_path / "small", vocab=tmp_path / "text.txt")
    old, new = (transformers.AutoTokenizer.from_pretrained(x) for x in (source, tmp_path / "small"))
    text = "unhappily the tallest valley"
    assert len(new(text)["input_ids"]) > len(old(text)["input_ids"])
    assert new.unk_token_id is None or new.unk_token_id not in new(text)["input_ids"]
    spelled = [x.decode(x(text)["input_ids"], skip_special_tokens=True) for x in (old, new)]
    assert spelled[0].replace(" ", "") == spelled[1].replace(" ", "")


def test_every_merge_of_a_kept_token_is_kept(tmp_path: Path) -> None:
    source = made("gpt2", tmp_path)
    rmtcli.prune(source, tmp_path / "small", vocab=tmp_path / "text.txt")
    model = json.loads((tmp_path / "small" / "tokenizer.json").read_text())["model"]
    merged = {first + second for first, second in model["merges"]}
    assert all(len(token) == 1 or token in merged or "<" in token for token in model["vocab"])
    assert sorted(model["vocab"].values()) == list(range(len(model["vocab"])))


def test_tokens_go_first_and_ranks_after(tmp_path: Path) -> None:
    source, text = made("gpt2", tmp_path), tmp_path / "text.txt"
    report = rmtcli.prune(
        source,
        tmp_path / "small",
        vocab=text,
        budget=Budget("60%"),
        selection=rmtcli.Selection(embeddings=True),
        evaluation=rmtcli.Evaluation(text, task="causal-lm:lines=1"),
        calibration=rmtcli.Calibration(text),
    )
    assert report.vocabulary is not None
    assert report.pruned
    assert report.source.path == str(source)
    assert report.parameters[0] == open_checkpoint(source).parameters
    assert report.parameters[1] <= 0.6 * report.parameters[0]
    again = rmtcli.evaluate(
        tmp_path / "small", evaluation=rmtcli.Evaluation(text, task="causal-lm:lines=1")
    )
    assert again.comparison is not None
    assert report.comparison is not None
    expected = report.comparison.after.perplexity
    assert again.comparison.after.perplexity == pytest.approx(expected, rel=1e-4)


def embedder(folder: Path) -> Path:
    """A directory of sentence-transformers, with its files beside those of transformers."""
    sentences = pytest.importorskip("sentence_transformers")
    source = made("bert", folder)
    sentences.SentenceTransformer(str(source), device="cpu").save(str(folder / "sentences"))
    return folder / "sentences"


def test_a_sentence_transformer_opens_a_cut_directory_that_is_pruned_again(tmp_path: Path) -> None:
    import sentence_transformers

    source, text = embedder(tmp_path), tmp_path / "text.txt"
    rmtcli.prune(source, tmp_path / "cut", vocab=text)
    dense, cut = (
        sentence_transformers.SentenceTransformer(str(path), device="cpu").encode(USED)
        for path in (source, tmp_path / "cut")
    )
    torch.testing.assert_close(torch.tensor(cut), torch.tensor(dense), atol=1e-5, rtol=1e-5)
    report = rmtcli.prune(
        tmp_path / "cut",
        tmp_path / "small",
        layout="narrow",
        budget=Budget("95%"),
        evaluation=rmtcli.Evaluation(text),
        calibration=rmtcli.Calibration(text),
    )
    # The record of tokens that went, the tokenizer and the modules go along.
    files = [{file.name for file in (tmp_path / name).iterdir()} for name in ("cut", "small")]
    assert {REMOVED, "tokenizer.json", "modules.json"} <= files[0] == files[1]
    opened = sentence_transformers.SentenceTransformer(str(tmp_path / "small"), device="cpu")
    vectors = torch.tensor(opened.encode(USED))
    cosines = torch.cosine_similarity(vectors, torch.tensor(dense))
    assert report.comparison is not None
    assert report.comparison.cosines is not None
    assert float(cosines.mean()) == pytest.approx(float(report.comparison.cosines.mean()), abs=1e-4)
    config = json.loads((tmp_path / "small" / "config.json").read_text(encoding="utf-8"))
    assert config["intermediate_size"] < SIZES["intermediate_size"]


def test_a_cut_network_is_not_compared_on_the_tokens_of_another(tmp_path: Path) -> None:
    source, text = made("gpt2", tmp_path), tmp_path / "text.txt"
    rmtcli.prune(source, tmp_path / "small", vocab=text)
    evaluation = rmtcli.Evaluation(text, task="causal-lm:lines=1")
    with pytest.raises(EvaluationError, match="gives other token numbers than that of"):
        rmtcli.evaluate(tmp_path / "small", evaluation=evaluation, against=source)
    scores = [
        rmtcli.evaluate(path, evaluation=evaluation).comparison
        for path in (source, tmp_path / "small")
    ]
    assert all(scores)


@pytest.mark.parametrize("layout", ["narrow", "factored"])
def test_tokens_are_not_cut_after_layers(layout: str, tmp_path: Path) -> None:
    source, text = made("gpt2", tmp_path), tmp_path / "text.txt"
    evaluation = rmtcli.Evaluation(task="causal-lm:lines=1")
    calibration = rmtcli.Calibration(text)
    options = {"layout": layout, "evaluation": evaluation, "calibration": calibration}
    rmtcli.prune(source, tmp_path / "small", budget=Budget("92%"), **options)
    if layout == "factored":
        with pytest.raises(UsageError, match="is compressed already"):
            rmtcli.prune(tmp_path / "small", tmp_path / "smaller", vocab=text)
        return
    rmtcli.prune(tmp_path / "small", tmp_path / "smaller", vocab=text)
    old, new = (
        transformers.AutoTokenizer.from_pretrained(tmp_path / x) for x in ("small", "smaller")
    )
    (tokens, dense), (same, cut) = (
        outputs(tmp_path / x, tokenizer, "GPT2LMHeadModel")
        for x, tokenizer in (("small", old), ("smaller", new))
    )
    assert tokens == same
    kept = old.convert_tokens_to_ids(new.convert_ids_to_tokens(range(cut.shape[-1])))
    torch.testing.assert_close(cut, dense[..., kept], rtol=1e-5, atol=1e-5)


def test_a_budget_that_fewer_tokens_keep_needs_no_ranks(tmp_path: Path) -> None:
    source = made("bert", tmp_path)
    text, budget = tmp_path / "text.txt", Budget("95%")
    report = rmtcli.prune(source, tmp_path / "small", vocab=text, budget=budget)
    assert report.vocabulary is not None
    assert not report.pruned
    assert report.output is not None


def test_a_dry_run_and_a_refusal_write_nothing(tmp_path: Path) -> None:
    source, text = made("bert", tmp_path), tmp_path / "text.txt"
    small = tmp_path / "small"
    report = rmtcli.prune(source, small, vocab=text, dry_run=True)
    assert report.vocabulary is not None
    assert report.parameters[1] < report.parameters[0]
    assert rmtcli.prune(source, small, vocab=text, refuse=lambda _: ["no"]).output is None
    assert not small.exists()


def test_a_tokenizer_that_would_divide_the_text_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, text = made("gpt2", tmp_path), tmp_path / "text.txt"
    monkeypatch.setattr(cutting, "needed", lambda model, used: {t for t in used if "w" not in t})
    with pytest.raises(UsageError, match="would be divided in another way"):
        rmtcli.prune(source, tmp_path / "small", vocab=text)
    assert not (tmp_path / "small").exists()


def spoil(source: Path, fault: str) -> Path:
    """A directory, or a file, whose tokenizer cannot be cut."""
    if fault == "file":
        return source / "model.safetensors"
    file = source / ("config.json" if fault == "width" else "tokenizer.json")
    values = json.loads(file.read_text(encoding="utf-8"))
    if fault == "missing":
        file.unlink()
        (source / "spiece.model").write_bytes(b"-")
    elif fault == "width":
        file.write_text(json.dumps(values | {"intermediate_size": values["vocab_size"]}))
    else:
        values["model"] = {"type": "Other"}
        file.write_text(json.dumps(values))
    return source


FAULTS = {
    "file": "name a Hugging Face directory",
    "missing": "has no tokenizer.json",
    "width": "'vocab_size' and 'intermediate_size' are both",
    "other": "a tokenizer of the kind 'Other'",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_cut_is_refused(fault: str, tmp_path: Path) -> None:
    source = spoil(made("bert", tmp_path), fault)
    with pytest.raises(UsageError, match=FAULTS[fault]):
        rmtcli.prune(source, tmp_path / "small", vocab=tmp_path / "text.txt")
    assert not (tmp_path / "small").exists()


def test_tokens_that_a_configuration_names_are_kept(tmp_path: Path) -> None:
    source = made("gpt2", tmp_path)
    checkpoint: Any = open_checkpoint(source)
    (source / "generation_config.json").write_text('{"suppress_tokens": [300, -1]}')
    assert 300 in make_cut(checkpoint, set()).kept
    (source / "generation_config.json").unlink()
    assert 300 not in make_cut(checkpoint, set()).kept
