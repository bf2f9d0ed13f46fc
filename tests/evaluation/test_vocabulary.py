from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from rmtcli.evaluation.made import punctuated
from rmtcli.evaluation.vocabulary import by_rank, frequencies


def _fast(model: models.Model) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), unk_token="<unk>")


def test_scores_of_a_unigram_model_are_logarithms_of_shares() -> None:
    pieces = [("<unk>", 0.0), ("<0x0A>", 0.0), ("a", np.log(0.2)), ("b", np.log(0.1))]
    ids, shares = frequencies(_fast(models.Unigram(pieces, unk_id=0)))
    assert ids.tolist() == [2, 3]
    np.testing.assert_allclose(shares, [2 / 3, 1 / 3])


def test_merges_that_use_a_token_up_leave_less_of_it() -> None:
    # "ab" is made first, 1/10; "abc" and "abd" take 1/11 of it and would take 1/12 more.
    tokens = ["<unk>", "a", "b", "c", "d", "ab", "abc", "abd", "cd"]
    merges = [("a", "b"), ("ab", "c"), ("c", "d")]
    model = models.BPE({token: i for i, token in enumerate(tokens)}, merges)
    ids, shares = frequencies(_fast(model))
    assert ids.tolist() == [5, 6, 8]
    left = np.array([1 / 10 - 1 / 11, 1 / 11, 1 / 12])
    np.testing.assert_allclose(shares, left / left.sum())


def test_other_vocabularies_are_sorted_by_frequency() -> None:
    words = {"<unk>": 0, "[unused1]": 1, "the": 2, "of": 3, "[": 4}
    ids, shares = frequencies(_fast(models.WordLevel(words, unk_token="<unk>")))
    assert ids.tolist() == [2, 3, 4]
    np.testing.assert_allclose(shares, by_rank(ids))
    assert shares[0] / shares[2] == pytest.approx(14 / 12)


def test_a_text_has_commas_and_ends_with_a_full_stop() -> None:
    text = punctuated(" ".join(["word"] * 2000), np.random.default_rng(0))
    assert text.replace(",", "") == " ".join(["word"] * 2000) + "."
    assert 100 < text.count(",") < 230
