"""A file's names as a module has them: without what wrappers added, before them or inside."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from torch import nn

from rmtcli.checkpoint import Checkpoint, RawTensor
from rmtcli.checkpoint.names import factors_of, plain, unit_of
from rmtcli.errors import CheckpointError

#: Prefixes that DataParallel, torch.compile, Lightning and FSDP add to parameter names.
_WRAPPERS = {"module", "_orig_mod", "model", "_fsdp_wrapped_module", ""}


class Unwrapped(Checkpoint):
    """A checkpoint under names without wrappers' parts.

    Args:
        source: the checkpoint; no two of its names may differ in these parts alone.
    """

    def __init__(self, source: Checkpoint) -> None:
        self._source, self._names = source, {plain(name): name for name in source.infos}
        self.path, self.form, self.about = source.path, source.form, source.about
        self.as_stored, self.metadata = source.as_stored, source.metadata
        self.stamps = source.stamps
        self.infos = {name: source.infos[other] for name, other in self._names.items()}
        self.aliases = {plain(name): plain(first) for name, first in source.aliases.items()}
        if source.manifest is not None:
            old = source.manifest
            self.manifest = replace(
                old,
                factored={plain(name): rank for name, rank in old.factored.items()},
                shared={plain(name): plain(first) for name, first in old.shared.items()},
                pivoted={plain(name): rows for name, rows in old.pivoted.items()},
                tables={
                    plain(name): [plain(other) for other in others]
                    for name, others in old.tables.items()
                },
                narrowed={plain(name): shape for name, shape in old.narrowed.items()},
                shapes={plain(name): shape for name, shape in old.shapes.items()},
            )

    def raw(self, name: str) -> RawTensor:
        """The bytes of one tensor."""
        return self._source.raw(self._names[name])

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """The source's ties."""
        ties = self._source.ties([self._names[name] for name in names])
        return {plain(name): plain(first) for name, first in ties.items()}


def unwrapped(model: nn.Module, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint under names without wrappers' parts, unless the module fits it as it is.

    A file that has two names which differ in these parts alone is left as it is.
    """
    names = {plain(name) for name in checkpoint.infos}
    unambiguous = len(names) == len(checkpoint.infos) and names != checkpoint.infos.keys()
    if not unambiguous or _prefixes(model, checkpoint.infos.keys())[1]:
        return checkpoint
    return Unwrapped(checkpoint)


def naming(model: nn.Module, checkpoint: Checkpoint) -> Callable[[str], str | None]:
    """A function from the file's names to the module's own; None for one that is not the module's.

    Raises:
        CheckpointError: several prefixes fit.
    """
    view = unwrapped(model, checkpoint)
    prefix = prefix_of(model, view)

    def own(name: str) -> str | None:
        name = name if view is checkpoint else plain(name)
        return name.removeprefix(prefix) if name.startswith(prefix) else None

    return own


def prefix_of(model: nn.Module, checkpoint: Checkpoint) -> str:
    """The prefix of the model's parameter names in the file; empty if they have none.

    Raises:
        CheckpointError: several prefixes fit, such as a student's and a teacher's.
    """
    near, fits = _prefixes(model, checkpoint.infos.keys())
    if "" in fits or not near:
        return ""
    wrapped = {prefix for prefix in fits if set(prefix.split(".")) <= _WRAPPERS}
    if len(fits) > 1 and len(wrapped) != 1:
        raise CheckpointError(
            f"{checkpoint.path}: holds {type(model).__name__} under several names: "
            f"{', '.join(sorted(fits))}"
        )
    if not fits:  # no prefix has all parameters: take the nearest, and torch names what is missing
        return min(near, key=lambda prefix: (len(prefix), prefix))
    return (wrapped if len(fits) > 1 else fits).pop()


def _prefixes(model: nn.Module, names: Collection[str]) -> tuple[set[str], set[str]]:
    """The prefixes under which a file has the model's first parameter, and those that fit all."""
    keys = list(model.state_dict())
    if not keys:
        return set(), {""}
    first = (keys[0], *factors_of(unit_of(keys[0]))[:1])
    near = {
        name.removesuffix(end)
        for name in names
        for end in first
        if name == end or name.endswith(f".{end}")
    }

    def holds(prefix: str) -> bool:
        return all(
            f"{prefix}{key}" in names
            or any(prefix + end in names for end in factors_of(unit_of(key)))
            for key in keys
        )

    return near, {prefix for prefix in near if holds(prefix)}
