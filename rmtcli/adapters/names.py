"""The tensors of a base network that an adapter changes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from rmtcli.adapters.base import Adapter, Style
from rmtcli.checkpoint import Checkpoint
from rmtcli.checkpoint.names import module_of
from rmtcli.errors import LayerError

#: What kohya's names begin with, before the name of a module.
_PREFIX = re.compile(r"lora_[a-z]+\d*_")


class BaseNames:
    """Finds a base network's tensors by the names that an adapter has for them.

    The network may have been saved by another class, which puts one more part before all names, or
    one less (``transformer.h.0…`` and ``h.0…``).

    Args:
        base: the network.
        adapter: the adapter.
    """

    def __init__(self, base: Checkpoint, adapter: Adapter) -> None:
        self._base, self._adapter = base, adapter
        self._parts = list(dict.fromkeys(name.partition(".")[0] for name in base.infos))
        self._joined: Mapping[str, list[str]] = defaultdict(list)
        if adapter.style is Style.KOHYA:
            for name in base.infos:
                self._joined[module_of(name).replace(".", "_")].append(name)

    def weight(self, module: str) -> str:
        """The name of a module's weight.

        Raises:
            LayerError: the base has none, or several that it may be.
        """
        if self._adapter.style is Style.PEFT:
            return self.tensor(f"{module}.weight")
        names = self._joined.get(_PREFIX.sub("", module, count=1), [])
        return self._only(module, (name for name in names if name.endswith("weight")))

    def tensor(self, name: str) -> str:
        """The name of a tensor.

        Raises:
            LayerError: the base has none, or several that it may be.
        """
        return self._only(name, self._candidates(name))

    def knows(self, name: str) -> bool:
        """Whether the base has a tensor."""
        return bool(self._candidates(name))

    def _candidates(self, name: str) -> list[str]:
        """The tensors of the base that a name may mean."""
        if name in self._base.infos:
            return [name]
        others = [name.partition(".")[2], *(f"{part}.{name}" for part in self._parts)]
        return [other for other in others if other in self._base.infos]

    def _only(self, name: str, matches: Iterable[str]) -> str:
        """The only match.

        Raises:
            LayerError: there is none, or there are several.
        """
        every = list(matches)
        if len(every) == 1:
            return every[0]
        if every:
            raise LayerError(
                f"{self._base.path}: '{name}' of the adapter may be {' or '.join(every)}"
            )
        made = f" ({self._adapter.base})" if self._adapter.base else ""
        raise LayerError(
            f"{self._base.path}: has no '{name}', which the adapter changes: name the base that it "
            f"was trained on{made}. A head that shares the weight of the embeddings cannot be "
            "changed alone"
        )
