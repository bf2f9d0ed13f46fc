"""Where an adapter is written, and the report of one that was made from two networks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rmtcli.adapters import Adapter, Style, check_adapter_target, write_adapter
from rmtcli.checkpoint import Checkpoint, Openable
from rmtcli.errors import UsageError
from rmtcli.files import as_path
from rmtcli.layouts import Factored
from rmtcli.options import option
from rmtcli.pipeline.adapted import Adapted
from rmtcli.pipeline.adapter_parts import described_adapter
from rmtcli.pipeline.adapter_ranks import AdapterGoal
from rmtcli.pipeline.changes import Pair
from rmtcli.pipeline.stages import Method, describe
from rmtcli.report.base import Report


@dataclass(frozen=True, slots=True, eq=False)
class AdapterOutput:
    """An adapter that is to be written.

    Attributes:
        empty: the adapter, without its layers.
        path: the directory or file.
        style: its format.
        prefix: what names begin with in kohya's style.
        force: whether an output that exists already may be replaced.
    """

    empty: Adapter
    path: Path
    style: Style
    prefix: str
    force: bool

    @staticmethod
    def of(
        pair: Pair,
        base: Openable,
        path: str | Path | None,
        *,
        word: str,
        style: str,
        prefix: str,
        force: bool,
    ) -> AdapterOutput:
        """The output that a user asks for.

        Args:
            pair: the two networks.
            base: the network that the adapter is for, as the user gave it.
            path: the path; by default the name of the network that the adapter leads to, with
                ``word`` added.
            word: that word.
            style: the name of its format.
            prefix: what names begin with in kohya's style.
            force: whether an output that exists already may be replaced.

        Raises:
            UsageError: there is no such style.
        """
        kind = style_of(style)
        own = pair.tuned if word == "adapter" else pair.base
        target = _default_path(own, word, kind) if path is None else as_path(path)
        name = str(base) if pair.base.files else None
        return AdapterOutput(Adapter(own.path, (), base=name), target, kind, prefix, force)

    @property
    def saves(self) -> bool:
        """Whether the format holds tensors whole."""
        return self.style is Style.PEFT

    def check(self, pair: Pair) -> None:
        """Refuse a path that cannot be written, before any work is done.

        Raises:
            UsageError: it is an input or exists already, or has another ending than the style's.
        """
        inputs = [x.path for x in (pair.base, pair.tuned) if x.files]
        check_adapter_target(
            self.empty, self.path, style=self.style, force=self.force, inputs=inputs
        )

    def write(self, report: Report, adapted: Adapted) -> Report:
        """Write the adapter, and complete its report."""
        layers, saved, config = adapted.layers, adapted.saved, adapted.config
        adapter = replace(self.empty, layers=layers, saved=saved, config=config)
        write_adapter(adapter, self.path, style=self.style, prefix=self.prefix, force=self.force)
        return replace(report, output=described_adapter(self.path))


def style_of(name: str) -> Style:
    """The format of an adapter by its name.

    Raises:
        UsageError: there is no such format.
    """
    if name not in [*Style]:
        raise UsageError(f"{option('style')} is {' or '.join(Style)}, not '{name}'")
    return Style(name)


def _default_path(network: Checkpoint, word: str, style: Style) -> Path:
    """``tuned.adapter`` beside the tuned network, or ``tuned.adapter.safetensors``."""
    path = network.path
    if path.parent.name == "snapshots":  # in the cache of the Hugging Face Hub
        path = Path(path.parents[1].name.split("--")[-1])
    stem = path.name if path.is_dir() or not path.suffix else path.stem
    ending = ".safetensors" if style is Style.KOHYA else ""
    return path.with_name(f"{stem}.{word}{ending}")


def report_of(action: str, pair: Pair, goal: AdapterGoal, adapted: Adapted, style: Style) -> Report:
    """The report of an adapter that is not written yet."""
    method = Method.spelled(goal.edge, goal.ranks.keep, Factored())
    size = sum(layer.nbytes for layer in adapted.layers)
    size += sum(stored.nbytes for stored in adapted.saved.values())
    return Report(
        action,
        describe(pair.tuned),
        reference=describe(pair.base),
        edge=method.edge,
        keep=method.keep,
        layout=method.layout,
        layers=adapted.plans,
        skipped=adapted.skipped,
        calibrated=adapted.calibrated,
        budget=goal.ranks.budget,
        comparison=adapted.comparison,
        guard=adapted.guard,
        extracted=replace(adapted.extracted, style=str(style), bytes=size),
        notes=adapted.notes,
    )
