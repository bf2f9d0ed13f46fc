"""Fixtures of tests of transformers."""

from __future__ import annotations

import pytest


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers as it is where the loader was never imported."""
    import transformers
    from transformers.quantizers import auto

    monkeypatch.delattr(transformers.PretrainedConfig, "transformers_weights")
    for mapping in (auto.AUTO_QUANTIZATION_CONFIG_MAPPING, auto.AUTO_QUANTIZER_MAPPING):
        monkeypatch.delitem(mapping, "rmtcli")
