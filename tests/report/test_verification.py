from __future__ import annotations

import json
from dataclasses import replace

from rmtcli.report.verification import Distance, Verification

FOUND = Verification("out", "BertModel", "AutoModel", "5.0", 7, 1e-4, None, False, 0)


def test_the_summary_of_a_verification() -> None:
    assert dict(FOUND.summary())["opens as"] == "BertModel (AutoModel, transformers 5.0)"
    assert dict(FOUND.summary())["factored"].startswith("7 layers")
    assert not {"with neither", "difference", "note"} & dict(FOUND.summary()).keys()
    distance = Distance("dense", "logits", 0.98765, 0.01234, 0.5)
    full = Verification(
        "out", "BertModel", "AutoModel", "5.0", 7, 1e-4, 2.34e-6, False, 3, distance, ("one", "two")
    )
    summary = full.summary()
    assert dict(summary)["with neither"].startswith("3 weights would be random")
    refused = replace(FOUND, refused=True).summary()
    assert dict(refused)["with neither"] == (
        "transformers refuses the directory, and says how to load it"
    )
    assert dict(summary)["difference"].startswith("2.3e-06 of the largest output")
    assert dict(summary)["logits"] == (
        "mean cosine 0.9877, divergence 0.0123 nats, largest difference 0.5 of the largest output, "
        "against dense"
    )
    assert summary[-2:] == [("note", "one"), ("note", "two")]


def test_hidden_states_have_no_divergence() -> None:
    distance = Distance("dense", "last_hidden_state", 1.0, None, 0.0)
    found = Verification("out", "B", "A", "5.0", 1, 1e-4, 0.0, False, 0, distance)
    assert "nats" not in dict(found.summary())["last_hidden_state"]


def test_a_verification_as_json() -> None:
    found = json.loads(FOUND.to_json("rmtcli verify é"))
    assert found["action"] == "verify"
    assert found["command"] == "rmtcli verify é"
    assert (found["kind"], found["layers"], found["against"]) == ("BertModel", 7, None)
    assert "é" not in FOUND.to_json("é", ascii_only=True)
