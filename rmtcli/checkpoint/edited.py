"""A checkpoint with changes laid over it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from rmtcli.checkpoint.base import Checkpoint, TensorInfo
from rmtcli.checkpoint.dtypes import TYPES, RawTensor
from rmtcli.checkpoint.manifest import Manifest
from rmtcli.checkpoint.packing import Packed
from rmtcli.checkpoint.spill import Stored
from rmtcli.errors import CheckpointError

#: For each tensor that is replaced: the new tensors, by name.
Edits = Mapping[str, Mapping[str, Stored]]


class Edited(Checkpoint):
    """A checkpoint in which some tensors are replaced.

    Args:
        source: the checkpoint below the changes; it is not modified.
        edits: for each tensor that is replaced, the new tensors by name.
        manifest: the record of the result.

    Raises:
        CheckpointError: two tensors of the result would have one name.
    """

    def __init__(self, source: Checkpoint, edits: Edits, manifest: Manifest | None) -> None:
        self.source = source
        self.edits = edits
        self.path = source.path
        self.manifest = manifest
        self.metadata = source.metadata
        self.extras = source.extras
        self.opaque, self.opaque_bytes = source.opaque, source.opaque_bytes
        self.as_stored = source.as_stored
        self.about = source.about
        self.stamps = source.stamps
        self.key, self.is_directory = source.key, source.is_directory
        self.graph = source.graph
        self._new = {new: stored for group in edits.values() for new, stored in group.items()}
        self.infos = self._edited_infos()
        self.aliases = self._edited_aliases()

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of the source."""
        return self.source.files

    @property
    def weights(self) -> tuple[Path, ...]:
        """Those of the source."""
        return self.source.weights

    def _edited_infos(self) -> dict[str, TensorInfo]:
        """The source's tensors in their order, with new tensors instead of each replaced one."""
        names: list[str] = []
        for name in self.source.infos:
            names.extend(self.edits.get(name, [name]))
        name, count = Counter(names).most_common(1)[0] if names else ("", 0)
        if count > 1:
            raise CheckpointError(
                f"{self.path}: the name '{name}' would be needed twice: one of two tensors would "
                "be lost"
            )
        return {name: self._info(name) for name in names}

    def _info(self, name: str) -> TensorInfo:
        new = self._new.get(name)
        return self.source.infos[name] if new is None else TensorInfo(new.shape, new.dtype)

    def _edited_aliases(self) -> dict[str, str]:
        """The source's aliases, if they still share one tensor, and new shared factors."""
        shared = {} if self.manifest is None else self.manifest.shared_factors
        aliases = {name: other for name, other in shared.items() if name in self._new}
        first: dict[tuple[str, Stored | None], str] = {}
        for old in (*self.source.distinct, *self.source.aliases):
            stored = self.source.aliases.get(old, old)
            for name in self.edits.get(old, [old]):
                other = first.setdefault((stored, self._new.get(name)), name)
                if other != name:
                    aliases[name] = other
        return aliases

    def packed(self, name: str) -> Packed | None:
        """The parts of a tensor that the record says is stored in few bits; None for any other."""
        if self.manifest is None or name not in self.manifest.packed:
            return None
        new = self._new.get(name)
        return self.source.packed(name) if new is None else new if isinstance(new, Packed) else None

    def raw(self, name: str) -> RawTensor:
        """The bytes of one tensor: a new one's own, or the source's."""
        return self._new[name].read() if name in self._new else self.source.raw(name)

    def nbytes(self, name: str) -> int:
        """Bytes of one tensor."""
        if name in self._new:
            return self._new[name].nbytes
        if self.source.packed(name) is None or self.packed(name) is not None:
            return self.source.nbytes(name)
        info = self.infos[name]  # packed in the source, and not here
        return info.size * TYPES[info.dtype].width

    def ties(self, names: Iterable[str]) -> Mapping[str, str]:
        """The source's ties among tensors that were not replaced."""
        return self.source.ties(name for name in names if name not in self._new)
