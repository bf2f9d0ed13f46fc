"""Networks of Hugging Face directories: read, calibrated, compressed and scored by task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rmtcli import Calibration, Evaluation, Selection, curve, evaluate, prune
from rmtcli.checkpoint import open_checkpoint
from rmtcli.errors import EvaluationError, UsageError
from rmtcli.evaluation import Rows
from rmtcli.evaluation.network import build
from rmtcli.evaluation.pretrained import Pretrained
from rmtcli.evaluation.tasks import (
    CausalLM,
    SentenceEmbedding,
    TextClassification,
)
from rmtcli.evaluation.text import MASK, TOKENS
from rmtcli.evaluation.which_task import task_of
from rmtcli.layers import Layer, find_layers
from rmtcli.planning import Budget
from rmtcli.report.base import Report
from rmtcli.report.notes import tables_taken
from rmtcli.report.summary import summary
from rmtcli.report.table import table
from rmtcli.running.calibrate import calibrate
from rmtcli.running.modules import modules_of
from tests.integrations.factored import CASES, WORDS, tokenizer

#: The task of each case's directory.
TASKED = {
    "bert-head": "text-classification",
    "llama": "causal-lm:length=16",
    "gpt2": "causal-lm:length=16",
    "mixtral": "causal-lm:length=16",
    "t5": "seq2seq-lm",
    "vit": "image-classification",
    "bert": "sentence-embedding",
}


def directory(case: str, folder: Path) -> Path:
    """A small random model with a tokenizer of whole words."""
    target = folder / case
    CASES[case].model().save_pretrained(target)
    tokenizer(40).save_pretrained(target)
    return target


def lines(count: int = 40, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size)) for size in rng.integers(3, 20, count)]


def data_for(case: str, folder: Path) -> Path:
    """A file of samples of the kind that the network reads."""
    if case == "vit":
        rng = np.random.default_rng(0)
        images = rng.standard_normal((40, 3, 16, 16)).astype(np.float32)
        np.savez(folder / "images.npz", inputs=images, targets=rng.integers(0, 2, 40))
        return folder / "images.npz"
    if case == "bert-head":
        records = [{"text": text, "label": i % 2} for i, text in enumerate(lines())]
        (folder / "text.jsonl").write_text("\n".join(map(json.dumps, records)))
        return folder / "text.jsonl"
    if case == "t5":
        pairs = zip(lines(), lines(seed=1), strict=True)
        records = [{"text": text, "target": target} for text, target in pairs]
        (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, records)))
        return folder / "pairs.jsonl"
    (folder / "text.txt").write_text("\n".join(lines()))
    return folder / "text.txt"


@pytest.mark.parametrize("case", TASKED)
def test_every_task_calibrates_compresses_and_compares(case: str, tmp_path: Path) -> None:
    source, data = directory(case, tmp_path), data_for(case, tmp_path)
    evaluation = Evaluation(data, task=TASKED[case])
    report = prune(
        source,
        tmp_path / "small",
        budget=Budget("70%", "macs"),
        evaluation=evaluation,
        calibration=Calibration(data, sequential=True, heal=1),
    )
    assert len(report.pruned) >= 4
    measured = report.comparison
    assert measured is not None
    assert measured.before is not None
    # The written directory scores as its network did before it was written.
    again = evaluate(tmp_path / "small", evaluation=evaluation, against=source).comparison
    assert again is not None
    assert again.after.accuracy == pytest.approx(measured.after.accuracy, abs=1e-3)
    if case == "bert":
        assert measured.cosines is not None
        assert 0.3 < measured.cosines.mean() < 1
        assert measured.agreement is None
    else:
        assert 0 <= measured.agreement < 100.1  # type: ignore[operator]
    if "-lm" in TASKED[case]:
        assert again.after.perplexity == pytest.approx(measured.after.perplexity, rel=1e-4)


@pytest.mark.parametrize("case", ["gpt2", "bert"])
def test_tables_are_calibrated_and_healed_with_layers(case: str, tmp_path: Path) -> None:
    source, data = directory(case, tmp_path), data_for(case, tmp_path)
    evaluation = Evaluation(data, task=TASKED[case])
    report = prune(
        source,
        tmp_path / "small",
        keep="rank:k=8",
        layout="pivoted",
        selection=Selection(embeddings=True),
        evaluation=evaluation,
        calibration=Calibration(data, sequential=True, heal=1),
    )
    tables = [plan for plan in report.pruned if plan.layer.view.table]
    assert [plan.layout.action for plan in tables] == ["split in two"]
    assert all(plan.predicted_loss is not None for plan in tables)
    again = evaluate(tmp_path / "small", evaluation=evaluation, against=source).comparison
    assert again is not None
    assert report.comparison is not None
    # The written directory scores as its network did before it was written.
    assert again.after.accuracy == pytest.approx(report.comparison.after.accuracy, abs=1e-3)


def test_a_budget_takes_tables_that_it_needs(tmp_path: Path) -> None:
    source, data = directory("bert", tmp_path), data_for("bert", tmp_path)
    given: dict[str, Any] = {
        "dry_run": True,
        "layout": "pivoted",
        "evaluation": Evaluation(task="sentence-embedding"),
    }

    def pruned(share: str, **options: object) -> Report:
        chosen = {"selection": Selection(**options), "calibration": Calibration(data)}
        return prune(source, budget=Budget(share), **given, **chosen)

    def tables(report: Report) -> tuple[int, bool]:
        return sum(plan.layer.view.table for plan in report.layers), tables_taken() in report.notes

    assert tables(pruned("90%")) == (0, False)
    small = pruned("40%")
    assert tables(small) == (1, True)
    # Its plan names the table, so that nobody has to ask for it again.
    assert prune(source, plan=small.plan, **given).parameters == small.parameters
    with pytest.raises(UsageError, match="cannot be met"):
        pruned("15%", exclude=["*word_embeddings*"])


def test_lines_are_calibrated_healed_and_guarded_without_their_padding(tmp_path: Path) -> None:
    source, data = directory("gpt2", tmp_path), data_for("gpt2", tmp_path)
    report = prune(
        source,
        tmp_path / "small",
        max_drop=100,
        evaluation=Evaluation(data, task="causal-lm:lines=1"),
        calibration=Calibration(data, sequential=True, heal=1),
    )
    assert report.calibrated is not None
    assert report.calibrated.samples == 40
    measured = report.comparison
    # The limit is one on the rise of the perplexity, in percent.
    assert report.guard is not None
    assert report.guard.drop is not None
    assert measured is not None
    assert measured.before is not None
    ratio = measured.after.perplexity / measured.before.perplexity
    assert report.guard.drop == pytest.approx(100 * (ratio - 1), abs=1e-3)
    assert "a rise of perplexity of at most 100 % is allowed" in dict(summary(report))["guard"]
    assert measured is not None
    assert measured.after.perplexity is not None
    assert measured.samples is not None
    assert measured.samples.targets is not None
    assert measured.after.predictions is not None
    assert len(measured.after.predictions) == measured.samples.inputs[:, MASK, 1:].sum()
    for text, message in (("w1\nw2\n", "no text has a second token"), ("", "holds no text")):
        data.write_text(text)
        with pytest.raises(EvaluationError, match=message):
            CausalLM(lines=1).read(data, source)
    with pytest.raises(UsageError, match="lines must be 0 or 1, not 2"):
        task_of(source, "causal-lm:lines=2")


def test_a_curve_of_embeddings_shows_cosines(tmp_path: Path) -> None:
    source, data = directory("bert", tmp_path), data_for("bert", tmp_path)
    evaluation = Evaluation(data, task="sentence-embedding")
    report = curve(
        source, sizes=["95%", "85%"], evaluation=evaluation, calibration=Calibration(data)
    )
    columns, rows = table(report)
    assert "accuracy" not in columns
    large, small = (float(row[columns.index("cosine")]) for row in rows)
    assert small < large < 1
    assert not any("accurate" in text for _, text in summary(report))
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.parametrize("case", ["bert-head", "gpt2", "mixtral", "t5"])
def test_padding_does_not_count_in_moments(case: str, tmp_path: Path) -> None:
    """Compare with one sample at a time, which has no padding; each expert sees other tokens."""
    source, data = directory(case, tmp_path), data_for(case, tmp_path)
    checkpoint = open_checkpoint(source)
    layers = [item for item in find_layers(checkpoint) if isinstance(item, Layer)]
    harness = Evaluation(task=TASKED[case]).resolve(checkpoint)
    moments_by_layer = calibrate(harness, layers, Calibration(data, metric="one-sided"))
    one = calibrate(harness, layers, Calibration(data, "one-sided", batch=1))
    assert moments_by_layer.keys() == one.keys()
    shared = {id(moments.second) for moments in moments_by_layer.values()}
    fused = case == "gpt2"  # its query, key and value are one layer
    assert (len(shared) == len(moments_by_layer)) is fused
    assert len(moments_by_layer) >= 8
    for name, moments in moments_by_layer.items():
        assert moments.rows == one[name].rows
        # float32 sums, added in another order.
        np.testing.assert_allclose(moments.mean, one[name].mean, atol=2e-4)
        np.testing.assert_allclose(moments.second, one[name].second, atol=2e-3, rtol=1e-3)


def test_joined_experts_are_separated_into_modules(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(directory("mixtral", tmp_path))
    layers = [item for item in find_layers(checkpoint) if isinstance(item, Layer)]
    evaluation = Evaluation(task="causal-lm")
    whole, apart = (build(evaluation.resolve(checkpoint)) for _ in range(2))
    modules = modules_of(apart, checkpoint, layers)
    experts = [name for name in modules if ".experts." in name]
    assert len(experts) == 2 * 3 * 3
    assert all(len(modules[name]) == 1 for name in experts)
    tokens = torch.randint(2, 92, (2, 3, 9), generator=torch.Generator().manual_seed(0))
    tokens[:, MASK] = 1
    # The sums are equal but added in another order.
    torch.testing.assert_close(apart(tokens), whole(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("problem", "labels", "rows"),
    [
        ("multi_label_classification", [[1, 0], [0, 1], [1, 1]], Rows.LABELS),
        ("regression", [0.5, 2, -1.25], Rows.VALUES),
    ],
)
def test_classifiers_of_labels_and_of_numbers_are_measured_as_such(
    problem: str, labels: list[object], rows: Rows, tmp_path: Path
) -> None:
    """transformers' loss of the same samples, which are not padded, is the reference."""
    source, data = directory("bert-head", tmp_path), tmp_path / "d.jsonl"
    config = json.loads((source / "config.json").read_text()) | {"problem_type": problem}
    tensors = load_file(source / "model.safetensors")
    if rows is Rows.VALUES:
        config |= {"id2label": {"0": "score"}, "label2id": {"score": 0}}
        tensors |= {n: t[:1] for n, t in tensors.items() if n.startswith("classifier.")}
        save_file(tensors, source / "model.safetensors", {"format": "pt"})
    (source / "config.json").write_text(json.dumps(config))
    records = [{"text": "w1 w2 w3", "label": label} for label in labels]
    data.write_text("\n".join(map(json.dumps, records)))
    evaluation = Evaluation(data)
    measured = evaluate(source, evaluation=evaluation).comparison
    assert measured is not None
    assert measured.rows is rows
    assert measured.samples is not None
    model = build(evaluation.resolve(open_checkpoint(source)))
    assert isinstance(model, Pretrained)
    tokens = torch.from_numpy(measured.samples.inputs[:, TOKENS])
    with torch.no_grad():
        result = model.network(input_ids=tokens, labels=torch.tensor(labels).float())
    wanted = np.array(labels, np.float64).reshape(3, -1)
    logits = result.logits.numpy()
    if rows is Rows.VALUES:
        assert measured.after.squared_error == pytest.approx(float(result.loss), rel=1e-5)
        accuracy = 1 - ((logits - wanted) ** 2).sum() / ((wanted - wanted.mean()) ** 2).sum()
    else:
        accuracy = ((logits > 0) == wanted).mean()
    assert measured.after.accuracy == pytest.approx(100 * accuracy, rel=1e-5)
    data.write_text('{"text": "w1", "label": "good"}')
    with pytest.raises(EvaluationError, match="each 'label' must be a"):
        evaluate(source, evaluation=evaluation)


def test_texts_are_sorted_by_length_with_their_labels(tmp_path: Path) -> None:
    source, data = directory("bert-head", tmp_path), data_for("bert-head", tmp_path)
    samples = TextClassification().read(data, source)
    sizes = samples.inputs[:, MASK].sum(1)
    assert (np.diff(sizes) >= 0).all()
    vocabulary = {word: i + 2 for i, word in enumerate(WORDS)}
    texts = {tuple(vocabulary[w] for w in t.split()): i % 2 for i, t in enumerate(lines())}
    assert samples.targets is not None
    for row, size, target in zip(samples.inputs, sizes, samples.targets, strict=True):
        assert texts[tuple(row[TOKENS, :size])] == target


def test_a_language_model_reads_whole_blocks(tmp_path: Path) -> None:
    source, data = directory("llama", tmp_path), data_for("llama", tmp_path)
    samples = CausalLM(length=8).read(data, source)
    words = sum(len(line.split()) for line in lines())
    assert samples.inputs.shape == (words // 8, 2, 8)
    assert samples.targets is not None
    np.testing.assert_array_equal(samples.targets, samples.inputs[:, TOKENS, 1:])


def test_blocks_longer_than_the_network_has_positions_are_refused(tmp_path: Path) -> None:
    """The default of 512 tokens is more than small networks have."""
    source, positions = directory("gpt2", tmp_path), CASES["gpt2"].config.n_positions
    (tmp_path / "text.txt").write_text("\n".join(lines(200)))
    with pytest.raises(EvaluationError, match=rf"it has {positions} positions: .*={positions}"):
        evaluate(source, evaluation=Evaluation(tmp_path / "text.txt"))


def test_perplexity_equals_exp_of_the_loss_of_transformers(tmp_path: Path) -> None:
    source, data = directory("llama", tmp_path), data_for("llama", tmp_path)
    evaluation = Evaluation(data, task="causal-lm:length=16")
    comparison = evaluate(source, evaluation=evaluation).comparison
    assert comparison is not None
    model = build(evaluation.resolve(open_checkpoint(source)))
    assert isinstance(model, Pretrained)
    tokens = torch.from_numpy(CausalLM(length=16).read(data, source).inputs[:, TOKENS])
    with torch.no_grad():
        loss = model.network(input_ids=tokens, labels=tokens).loss
    # float32 means, added in another order.
    assert comparison.after.perplexity == pytest.approx(float(loss.exp()), rel=1e-4)


def test_targets_of_an_encoder_decoder_are_those_of_transformers(tmp_path: Path) -> None:
    """transformers' loss of each pair, alone and without padding, is the reference."""
    source, data = directory("t5", tmp_path), data_for("t5", tmp_path)
    comparison = evaluate(source, evaluation=Evaluation(data)).comparison  # the task is implied
    assert comparison is not None
    model = build(Evaluation(task="seq2seq-lm").resolve(open_checkpoint(source)))
    assert isinstance(model, Pretrained)
    own, sums, count = tokenizer(40), 0.0, 0
    for record in map(json.loads, data.read_text().splitlines()):
        labels = own(text_target=record["target"], return_tensors="pt")["input_ids"]
        tokens = own(record["text"], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            loss = model.network(input_ids=tokens, labels=labels).loss
        sums, count = sums + float(loss) * labels.numel(), count + labels.numel()
    assert comparison.after.perplexity == pytest.approx(np.exp(sums / count), rel=1e-4)
    data.write_text('{"text": "w1", "target": "w2"}\n{"text": "w3"}')
    with pytest.raises(EvaluationError, match="some lines have a string 'target'"):
        evaluate(source, evaluation=Evaluation(data))
    data.write_text('{"text": "w1", "target": "w2"}')
    config = json.loads((source / "config.json").read_text())
    del config["decoder_start_token_id"]
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(EvaluationError, match="has no 'decoder_start_token_id'"):
        evaluate(source, evaluation=Evaluation(data, task="seq2seq-lm"))


def test_a_text_without_a_target_is_its_own(tmp_path: Path) -> None:
    source, data = directory("t5", tmp_path), tmp_path / "text.txt"
    data.write_text("w1 w2\nw3 w4 w5")
    samples = task_of(source, None).read(data, source)
    assert samples.inputs.shape == (2, 4, 3)
    np.testing.assert_array_equal(samples.inputs[:, 2:], samples.inputs[:, :2])
    assert samples.targets is not None
    assert samples.targets.tolist() == [[3, 4, -1], [5, 6, 7]]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_embeddings_are_pooled_as_the_directory_says(pooling: str, tmp_path: Path) -> None:
    source, data = directory("bert", tmp_path), data_for("bert", tmp_path)
    (source / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{m}": m.startswith(pooling) for m in ("cls_token", "mean_tokens")}
    (source / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    model = build(Evaluation(task="sentence-embedding").resolve(open_checkpoint(source)))
    samples = SentenceEmbedding().read(data, source)
    row = torch.from_numpy(samples.inputs[:1])
    states = model.network(input_ids=row[:, TOKENS, : int(row[:, MASK].sum())]).last_hidden_state
    expected = states.mean(1) if pooling == "mean" else states[:, 0]
    padded = model(torch.from_numpy(samples.inputs))[:1]  # in a batch with longer samples
    torch.testing.assert_close(padded, expected / expected.norm(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ('{"text": "w1", "label": 0}\nw2', "line 2 is not JSON"),
        ('{"text": "w1", "label": "bad"}', "label 'bad' is not a class of this network"),
        ('{"text": "w1", "label": 0}\n{"text": "w2"}', "some have none"),
        ('{"label": 0}', "not an object with a string 'text'"),
        ("", "holds no text"),
    ],
)
def test_wrong_records_are_refused(lines: str, text: str, tmp_path: Path) -> None:
    source, data = directory("bert-head", tmp_path), tmp_path / "wrong.jsonl"
    data.write_text(lines)
    with pytest.raises(EvaluationError, match=text):
        TextClassification().read(data, source)


def test_without_transformers_a_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmtcli.evaluation.which_task.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install transformers"):
        evaluate(directory("bert", tmp_path), evaluation=Evaluation(data_for("bert", tmp_path)))


def test_wrong_tasks_are_refused(tmp_path: Path) -> None:
    source, data = directory("bert", tmp_path), data_for("bert", tmp_path)
    with pytest.raises(UsageError, match="name a task="):
        task_of(source, None)
    with pytest.raises(UsageError, match="unknown task"):
        task_of(source, "translation")
    with pytest.raises(EvaluationError, match=r"holds no 'classifier.*right task="):
        evaluate(
            source,
            evaluation=Evaluation(data_for("bert-head", tmp_path), task="text-classification"),
        )
    images = data_for("vit", tmp_path)
    with pytest.raises(EvaluationError, match="no AutoModelForImageClassification"):
        evaluate(source, evaluation=Evaluation(images, task="image-classification"))
    with pytest.raises(EvaluationError, match="less than a block"):
        CausalLM(length=4096).read(data, source)
    (source / "tokenizer.json").unlink()
    (source / "tokenizer_config.json").unlink()
    with pytest.raises(EvaluationError, match="tokenizer cannot be read"):
        SentenceEmbedding().read(data, source)
