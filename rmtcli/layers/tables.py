"""Look-up tables of tokens: layers whose inputs are one-hot."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.names import member, module_of, plain
from rmtcli.layers.layer import Selection, SkipReason
from rmtcli.layers.roles import Roles

#: Parts of the name of an embedding that say that its rows are not those of tokens.
_OTHERS = re.compile(r"pos|type|segment|relative|time|wpe|patch|_factors$", re.IGNORECASE)

#: Reasons that tables have by their names.
NAMED = (SkipReason.EMBEDDING, SkipReason.NO_TOKENS)


def looked_up(roles: Roles, name: str, selection: Selection) -> SkipReason | None:
    """Why a matrix is a look-up table that stays as it is; None for any other matrix.

    A table has no bias, and its name or its number of rows says what it is, or only its shape does.
    """
    info, module = roles.checkpoint.infos[name], module_of(name)
    if len(info.shape) != 2 or member(module, "bias") in roles.checkpoint.infos:
        return None
    if is_token_table(roles, name, selection):
        return None
    if roles.is_embedding(module, info.shape[0]):
        return SkipReason.NO_TOKENS if selection.embeddings else SkipReason.EMBEDDING
    shaped = not selection.names(name) and roles.is_table(module, info)
    return SkipReason.TABLE if shaped else None


def is_token_table(roles: Roles, name: str, selection: Selection) -> bool:
    """Whether a matrix is a look-up table of tokens that is to be treated as a layer.

    A table has one row per entry of the vocabulary, or more rows than columns and no name that says
    something else; a full name in the selection settles it.
    """
    info, module = roles.checkpoint.infos[name], module_of(name)
    if not selection.embeddings or len(info.shape) != 2:
        return False
    if roles.checkpoint.about.unmultiplied is not None:
        return False
    if member(module, "bias") in roles.checkpoint.infos:
        return False
    rows, width = info.shape
    if selection.names(name):
        return roles.is_embedding(module, rows) or roles.is_table(module, info)
    if not roles.is_embedding(module, rows) or _OTHERS.search(plain(module)):
        return False
    return rows in roles.checkpoint.about.vocabularies or rows > width


def ties_of(
    checkpoint: Checkpoint, reasons: Mapping[str, SkipReason | None], tables: Collection[str]
) -> Mapping[str, str]:
    """For each tensor tied to an earlier layer, embedding or excluded matrix: the earlier one.

    Embeddings and excluded matrices count as earlier than all layers, so that a layer tied to one
    of them stays as it is too; tables that are layers count as earlier than other layers.
    """
    fixed = (*NAMED, SkipReason.TABLE, SkipReason.EXCLUDED)
    names = [name for name, reason in reasons.items() if reason in fixed]
    layers = [name for name, reason in reasons.items() if reason is None]
    return checkpoint.ties([*names, *sorted(layers, key=lambda name: name not in tables)])
