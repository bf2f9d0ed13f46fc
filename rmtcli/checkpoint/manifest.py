"""rmtcli's record of itself in a file that it wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rmtcli.checkpoint.dtypes import FLOATS
from rmtcli.checkpoint.names import parts_of

#: Version of the manifest's layout.
MANIFEST_VERSION = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """rmtcli's record of itself in a file that it wrote.

    Attributes:
        rmtcli: version of rmtcli that wrote the file.
        source: name of the file that was pruned.
        source_sha256: SHA-256 hash of that file.
        keep: the keep rule with all its options.
        edge: the edge estimator with all its options.
        factored: rank of each factored module, by module name.
        made_by: what determined the ranks, as a sentence.
        ranks: rank of each layer that was pruned last, by layer name, in either layout.
        shared: for each factored module that uses a sibling's right factor, the sibling's module.
        pivoted: number of rows that are no pivots, for each factored module in the pivoted layout.
        tables: for each factored module that is a look-up table, or a head tied to one, the modules
            with a weight of its shape that is not tied to it.
        narrowed: (out, in) of the dense weight of each layer next to a narrower hidden layer, by
            layer name.
        shapes: in a directory, (out, in) of those of these layers whose shapes its ``config.json``
            does not give, by layer name; ``narrowed`` then has the shapes that it gives.
        entries: entries of a directory's ``config.json`` that give the widths of hidden layers,
            with their new values; a dot leads into a part of the configuration.
        packed: for each tensor that is stored in few bits, by name, the type of its values
            (``dtype``), the bits of one (``bits``), how many share a scale (``group``), and whether
            compressed-tensors reads it (``plain``).
        version: version of the record's layout.
    """

    rmtcli: str
    source: str
    source_sha256: str
    keep: str
    edge: str
    factored: Mapping[str, int]
    made_by: str = ""
    ranks: Mapping[str, int] = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)
    pivoted: Mapping[str, int] = field(default_factory=dict)
    tables: Mapping[str, Sequence[str]] = field(default_factory=dict)
    narrowed: Mapping[str, Sequence[int]] = field(default_factory=dict)
    entries: Mapping[str, int] = field(default_factory=dict)
    packed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    version: int = MANIFEST_VERSION

    @property
    def shared_factors(self) -> dict[str, str]:
        """For each right factor that belongs to a sibling: the sibling's name for it."""
        return {self._first(a): self._first(b) for a, b in self.shared.items()}

    def _first(self, module: str) -> str:
        """Name of a factored module's right factor, or of its pivot rows."""
        return parts_of(module, pivoted=module in self.pivoted)[0]

    def keep_shared(self, is_shared: Callable[[str, str], bool]) -> Manifest:
        """The record of those shared factors that the file still shares.

        Another program may have given each layer a right factor of its own since.

        Args:
            is_shared: whether two names of right factors stand for one tensor in the file, or the
                first of them is not stored at all.
        """
        pairs = zip(self.shared.items(), self.shared_factors.items(), strict=True)
        return replace(
            self, shared=dict(modules for modules, factors in pairs if is_shared(*factors))
        )

    def keep_tied(self, ties: Mapping[str, str]) -> Manifest:
        """The record of those shared factors that are tied tensors of the file.

        Args:
            ties: for each name that stands for the storage of an earlier one, the earlier one.
        """
        return self.keep_shared(
            lambda name, other: name != other and ties.get(name, name) == ties.get(other, other)
        )

    def to_json(self) -> str:
        """The record as one line of JSON; the fields of rarer layouts only if they are used."""
        fields = asdict(self)
        for name in ("pivoted", "tables", "narrowed", "entries", "packed", "shapes"):
            if not fields[name]:
                del fields[name]
        return json.dumps(fields, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Manifest | None:
        """Parse a record; None where ``text`` is not a record that this version can read."""
        try:
            fields: Any = json.loads(text)
            manifest = Manifest(**fields)
            by_name = (manifest.factored, manifest.ranks, manifest.pivoted, manifest.entries)
            numbers = [number for some in by_name for number in some.values()]
            shapes = (*manifest.narrowed.values(), *manifest.shapes.values())
            numbers += [side for shape in shapes for side in shape]
            siblings = manifest.shared.values()
            modules = [*siblings, *(name for names in manifest.tables.values() for name in names)]
            valid = (
                all(type(number) is int for number in numbers)
                and manifest.narrowed.keys() >= manifest.shapes.keys()
                and all(len(shape) == 2 for shape in shapes)
                and all(type(module) is str for module in modules)
                and all(map(_describes_packed, manifest.packed.values()))
            )
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            return None
        return manifest if valid and manifest.version == MANIFEST_VERSION else None


def _describes_packed(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of ``packed`` says what a tensor in few bits is."""
    numbers = all(type(entry[key]) is int and entry[key] > 0 for key in ("bits", "group"))
    return numbers and type(entry["plain"]) is bool and entry["dtype"] in FLOATS
