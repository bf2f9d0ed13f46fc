"""Reading texts, pairs of texts and images, preprocessed as a directory says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rmtcli.errors import CheckpointError, EvaluationError, UsageError
from rmtcli.evaluation.pooling import pooling_of
from rmtcli.evaluation.text import (
    MASK,
    embedding_samples,
    image_samples,
    labelled_samples,
    language_samples,
)
from tests.integrations.factored import WORDS, tokenizer


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "m"
    tokenizer(40).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"label2id": {"bad": 0, "good": 1}}))
    return folder


def written(folder: Path, *records: object) -> Path:
    (folder / "text.jsonl").write_text("\n".join(map(json.dumps, records)))
    return folder / "text.jsonl"


def test_a_label_is_a_class_number_or_a_name(directory: Path) -> None:
    text = " ".join(WORDS[:3])
    file = written(directory, *({"text": text, "label": label} for label in ("good", 0, "bad", 7)))
    assert labelled_samples(file, directory, 8).targets.tolist() == [1, 0, 0, 7]  # type: ignore[union-attr]
    for label in ("other", -1, 0.5, ["good"]):
        with pytest.raises(EvaluationError, match="is not a class of this network: bad, good"):
            labelled_samples(written(directory, {"text": text, "label": label}), directory, 8)
    (directory / "config.json").write_text('{"label2id": 3}')
    with pytest.raises(EvaluationError, match="none has a name"):
        labelled_samples(written(directory, {"text": text, "label": "good"}), directory, 8)
    for damage in ("[]", "{"):
        (directory / "config.json").write_text(damage)
        with pytest.raises(CheckpointError, match=r"config\.json: damaged: not (a )?JSON"):
            labelled_samples(file, directory, 8)
    (directory / "config.json").unlink()
    with pytest.raises(EvaluationError, match=r"config\.json: cannot be read \(No such file"):
        labelled_samples(file, directory, 8)


@pytest.mark.parametrize("key", ["label", "text_pair"])
def test_a_field_must_be_in_all_records_or_in_none(key: str, directory: Path) -> None:
    value = 1 if key == "label" else WORDS[1]
    file = written(directory, {"text": WORDS[0], key: value}, {"text": WORDS[0]})
    with pytest.raises(EvaluationError, match=f"some lines have a '{key}' and some have none"):
        labelled_samples(file, directory, 8)


def test_a_pair_of_texts_is_one_sample(directory: Path) -> None:
    alone = written(directory, {"text": WORDS[0]})
    single = embedding_samples(alone, directory, 16).inputs[:, MASK].sum()
    both = written(directory, {"text": WORDS[0], "text_pair": " ".join(WORDS[1:4])})
    assert embedding_samples(both, directory, 16).inputs[:, MASK].sum() >= single + 3
    with pytest.raises(EvaluationError, match="a 'text_pair' that is not a string"):
        embedding_samples(written(directory, {"text": "a", "text_pair": 3}), directory, 8)


def test_a_language_model_reads_all_records_as_one_text(directory: Path) -> None:
    records = [" ".join(WORDS[i : i + 5]) for i in range(4)]
    (directory / "text.txt").write_text("\n".join(records))
    plain = language_samples(directory / "text.txt", directory, 4)
    lines = language_samples(written(directory, *({"text": r} for r in records)), directory, 4)
    assert np.array_equal(plain.inputs, lines.inputs)


def test_files_that_are_not_text_are_refused(directory: Path) -> None:
    (directory / "a.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(EvaluationError, match="is not text in UTF-8"):
        language_samples(directory / "a.txt", directory, 4)
    with pytest.raises(UsageError, match="no such file"):
        language_samples(directory / "b.txt", directory, 4)
    with pytest.raises(UsageError, match=r"text must be in a \.txt or a \.jsonl file"):
        language_samples(directory / "a.csv", directory, 4)


def test_images_are_normalised_as_the_directory_says(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 4)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", inputs=pixels, targets=np.zeros(3, np.int64))
    unit = pixels / 255

    def read() -> np.ndarray:
        return image_samples(tmp_path / "a.npz", tmp_path, "").inputs

    assert read() == pytest.approx(unit, abs=1e-6)
    settings = tmp_path / "preprocessor_config.json"
    settings.write_text(json.dumps({"image_mean": [0.1, 0.2], "image_std": [0.5, 0.25]}))
    mean, deviation = np.array([[0.1, 0.2], [0.5, 0.25]]).reshape(2, 1, 2, 1, 1)
    assert read() == pytest.approx((unit - mean) / deviation, abs=1e-5)
    settings.write_text("{}")
    assert read() == pytest.approx(2 * unit - 1, abs=1e-5)
    settings.write_text('{"do_normalize": false}')
    assert read() == pytest.approx(unit, abs=1e-6)
    np.savez(tmp_path / "a.npz", inputs=pixels[0], targets=np.zeros(2, np.int64))
    with pytest.raises(EvaluationError, match=r"images must have shape .*, not \(2, 4, 4\)"):
        read()


def test_only_known_ways_of_pooling_are_accepted(tmp_path: Path) -> None:
    states = torch.arange(12.0).reshape(1, 3, 4)
    mask = torch.tensor([[1, 1, 0]])
    (tmp_path / "1_Pooling").mkdir()
    file = tmp_path / "1_Pooling" / "config.json"
    for settings, expected in [
        ({}, states[:, :2].mean(1)),
        ({"pooling_mode": "mean"}, states[:, :2].mean(1)),
        ({"pooling_mode_mean_tokens": True}, states[:, :2].mean(1)),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, states[:, 0]),
    ]:
        file.write_text(json.dumps(settings))
        assert torch.equal(pooling_of(tmp_path)(states, mask), expected)
    file.write_text(json.dumps({"pooling_mode_max_tokens": True, "pooling_mode_cls_token": True}))
    message = "pooling by max, cls is not supported: only mean and cls are"
    with pytest.raises(UsageError, match=message):
        pooling_of(tmp_path)
