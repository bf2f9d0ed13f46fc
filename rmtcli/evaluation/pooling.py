"""How a sentence-transformers directory makes one vector of a text's hidden states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rmtcli.errors import UsageError
from rmtcli.evaluation.problem import object_of
from rmtcli.files import CONFIG


def pooling_of(directory: Path) -> Callable[[Any, Any], Any]:
    """The function by which a sentence-transformers directory pools hidden states.

    A directory that does not say so uses the mean.

    Raises:
        UsageError: the directory pools in another way than by mean or first token.
    """
    file = directory / "1_Pooling" / CONFIG
    return pooling_by(object_of(file) if file.is_file() else {}, str(file))


def pooling_by(settings: Mapping[str, Any], where: str) -> Callable[[Any, Any], Any]:
    """The function that the settings of sentence-transformers' pooling describe.

    Args:
        settings: the settings; the mean if they say nothing.
        where: where they are from, for messages.

    Raises:
        UsageError: they describe another way than the mean or the first token.
    """
    chosen = settings.get("pooling_mode") or [
        key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for key, value in settings.items()
        if key.startswith("pooling_mode_") and value is True
    ]
    chosen = chosen if isinstance(chosen, list) else [chosen]
    if chosen in ([], ["mean"]):
        return _mean
    if chosen == ["cls"]:
        return lambda states, mask: states[:, 0]
    raise UsageError(
        f"{where}: pooling by {', '.join(map(str, chosen))} is not supported: only mean and cls are"
    )


def embedding_head(pool: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """From a transformers model's outputs and the mask to pooled embeddings of norm 1."""

    def embed(outputs: Any, mask: Any) -> Any:
        vectors = pool(outputs.last_hidden_state, mask)
        return vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-12)

    return embed


def _mean(states: Any, mask: Any) -> Any:
    """Mean over the tokens, shape (samples, width)."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)
